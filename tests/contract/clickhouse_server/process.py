"""A server process for the contract tests of the development ClickHouse server, and what they wait for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from clickhouse_driver import Client

ROOT = Path(__file__).resolve().parents[3]
START_S = 120.0  # a start takes 0.6 s of one core; a busy machine may make it wait for that
DEADLINE_S = 120.0


@dataclass
class Server:
    """A running server process."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    http_port: int
    log: Path

    def client(self, **options: Any) -> Client:
        return Client("127.0.0.1", self.port, **options)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", timeout=DEADLINE_S, **options)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE_S)


def command(folder: Path, port: int = 0, http_port: int = 0, ready: Path | None = None) -> list[str]:
    words = [sys.executable, "-m", "clearline.embedded.clickhouse_server", str(folder)]
    words += ["--port", str(port), "--http-port", str(http_port)]
    return words + (["--ready-file", str(ready)] if ready else [])


def start(folder: Path) -> Server:
    ready, log = folder.with_name(f"{folder.name}.ready"), folder.with_name(f"{folder.name}.log")
    ready.unlink(missing_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(command(folder, ready=ready), cwd=ROOT, stdout=out, stderr=out)
    try:
        wait_for(lambda: ready.exists() or process.poll() is not None, START_S)
        assert ready.exists(), log.read_text()
    except BaseException:
        process.kill()
        process.wait()
        raise
    said = json.loads(ready.read_text())
    assert said["pid"] == process.pid
    assert said["ready"] is True
    return Server(folder, process, said["port"], said["http_port"], log)


def wait_for(condition: Callable[[], Any], seconds: float = DEADLINE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


LONG_QUERY = "SELECT sum(sleepEachRow(0.05)), '{mark}' FROM numbers(100000) SETTINGS max_block_size = 1"


def running(client: Client, mark: str) -> bool:
    text = f"SELECT count() FROM system.processes WHERE query LIKE '%{mark}%' AND query NOT LIKE '%system.processes%'"
    return bool(client.execute(text)[0][0])
