"""What became of a command, in plain English or Chinese, from the journal itself: no language model, and no guess.

`history` gathers the records, `story` tells them, `refusal` says why a command was rejected and what would make it
pass.
"""
