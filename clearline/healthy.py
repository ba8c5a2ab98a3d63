"""Whether the role of this container serves: `python -m clearline.healthy`, which the image's health check runs.

It reads the file that the role writes about itself all the time (CLEARLINE_READY_FILE): a file that says so, that is
fresh, and whose process lives. It imports nothing else of ours, because it runs every few seconds in each container.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

FRESH_S = 30.0  # each role writes at least once a second


def trouble(environment: Mapping[str, str], now_s: float) -> str:
    """What is wrong, in words; empty when the role serves. `now_s`: seconds since 1970."""
    named = environment.get("CLEARLINE_READY_FILE", "")
    if not named:
        return "CLEARLINE_READY_FILE is not set"
    try:
        age_s = now_s - Path(named).stat().st_mtime
        found = json.loads(Path(named).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        return f"{named} cannot be read: {e}"
    if age_s > FRESH_S:
        return f"silent for {age_s:.0f} s"
    if not found.get("ready", True):
        return str(found.get("waiting_for") or "not ready")
    try:
        os.kill(int(found["pid"]), 0)
    except (OSError, KeyError, ValueError):
        return "its process is gone"
    return ""


if __name__ == "__main__":
    said = trouble(os.environ, time.time())
    if said:
        print(said)
    sys.exit(bool(said))
