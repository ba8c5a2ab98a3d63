"""The helper processes of the benchmarks: `python -m benchmarks KIND JSON`, started by `benchmarks.harness.Helper`.

A helper prints `{"ready": true}` when it is prepared, may then wait for a line of JSON on its standard input, and
prints its figures as one JSON object when it is done.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks import copy_loop, http_load, load, observe

_KINDS = {
    "load": load.serve,
    "http": http_load.serve,
    "copy": copy_loop.serve,
    "read": observe.serve_reader,
    "arrivals": observe.serve_arrivals,
    "rebuild": observe.serve_rebuild,
}


def say(document: dict[str, Any]) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def hear() -> dict[str, Any]:
    """Says that this process is prepared, and waits for the next line."""
    say({"ready": True})
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(1)  # whoever started this process is gone
    heard: dict[str, Any] = json.loads(line)
    return heard


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    say(_KINDS[sys.argv[1]](json.loads(sys.argv[2]), hear))
