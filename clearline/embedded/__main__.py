"""Runs parts in the foreground: `python -m clearline.embedded up --data-dir D [--parts kafka,registry]`.

Prints the addresses as one line of JSON and stays until SIGTERM or Ctrl-C, then stops everything.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from clearline.config import load_settings
from clearline.stack import Stack
from schemas.errors import ClearlineError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m clearline.embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start parts and stay in the foreground")
    up.add_argument("--data-dir", type=Path)
    up.add_argument("--parts", help="comma-separated: kafka, registry, clickhouse, redis; default all")
    options = parser.parse_args(arguments)
    ended, started = threading.Event(), threading.Event()

    def on_signal(*_: object) -> None:
        if not started.is_set() and not ended.is_set():
            ended.set()
            raise KeyboardInterrupt  # ends the start; the stack stops what had come up
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        overrides = {"data_dir": options.data_dir} if options.data_dir else {}
        parts = options.parts.split(",") if options.parts else None
        with Stack(load_settings(**overrides), parts) as stack:
            addresses = stack.start()
            started.set()
            print(json.dumps(asdict(addresses)), flush=True)
            ended.wait()
    except ClearlineError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
