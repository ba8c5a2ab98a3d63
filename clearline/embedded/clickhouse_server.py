"""Entry point of the development ClickHouse server: `python -m clearline.embedded.clickhouse_server DATA_DIR ...`.

See docs/clickhouse-server.md for what it is and what it does not do.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from clearline.embedded.clickhouse.engine import CannotStartError
from clearline.embedded.clickhouse.server import serve

UNAVAILABLE = 3
PORT_MAX = 65_535


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > PORT_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number from 0 to {PORT_MAX}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Returns 3 when the folder or a port cannot be used; argparse exits with 2 by itself."""
    parser = argparse.ArgumentParser(
        prog="python -m clearline.embedded.clickhouse_server",
        description="Development ClickHouse server over chDB, loopback only, not for production.",
        epilog="example: python -m clearline.embedded.clickhouse_server /tmp/data --port 9000 --http-port 8123",
    )
    parser.add_argument("data_dir", type=Path, help="data folder, created if need be; one server owns it at a time")
    parser.add_argument("--port", type=_port, required=True, help="port of the native protocol; 0 takes a free one")
    parser.add_argument("--http-port", type=_port, required=True, help="port of the HTTP interface; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="JSON with pid, ports and version, written when serving")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s clickhouse %(levelname)s %(message)s"
    )
    try:
        return serve(options.data_dir, options.port, options.http_port, options.ready_file)
    except CannotStartError as error:
        print(f"clickhouse server: {error}", file=sys.stderr)
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
