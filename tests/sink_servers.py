"""Real stores for the sinks' tests: the development ClickHouse server and Valkey, each in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from clearline.embedded.valkey import find_server
from sinks.balances import RedisConfig
from sinks.clickhouse import ClickHouseConfig, Database

T = TypeVar("T")


def wait_for(what: str, ask: Callable[[], T], seconds: float = 180.0) -> T:
    """The first true answer. Fails with `what` after the deadline.

    Between two questions it waits as long as the last one took: who asks must not take the processor from whom he asks.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for: {what}")
        time.sleep(min(max(0.03, time.monotonic() - began), 1.0))


@dataclass
class ClickHouseServer:
    """The server, on ports that it keeps over restarts."""

    folder: Path
    port: int = 0
    http_port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "clearline.embedded.clickhouse_server", str(self.folder / "data")]
        ports = ["--port", str(self.port), "--http-port", str(self.http_port), "--ready-file", str(ready)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *ports], stdout=log, stderr=log)
        process = self.process

        def serving() -> bool:
            if process.poll() is not None:
                pytest.fail(f"the ClickHouse server ended: {(self.folder / 'server.log').read_text()[-2000:]}")
            return ready.exists()

        wait_for("the ClickHouse server", serving)
        found = json.loads(ready.read_text())
        self.port, self.http_port = found["port"], found["http_port"]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def config(self, database: str) -> ClickHouseConfig:
        return ClickHouseConfig("127.0.0.1", self.port, database)

    def database(self, name: str) -> Database:
        return Database(self.config(name))


@dataclass
class ValkeyServer:
    """A Valkey that keeps nothing on disk."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        if not self.port:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                self.port = s.getsockname()[1]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen([find_server(), *options], stdout=subprocess.DEVNULL)
        wait_for("Valkey", self.answers)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True)

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def config(self, world: str) -> RedisConfig:
        return RedisConfig(f"redis://127.0.0.1:{self.port}/0", world)
