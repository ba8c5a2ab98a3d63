"""Replay: the log settled once more into a shadow, beside the live system and without touching it, with a diff at the
end. docs/replay.md is its page; `plan` says what will be read, `run` does it, `shadow` is one partition's books."""
