"""Cheap answers to "does it serve yet?". Each returns a description, or None while it does not."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from schemas.errors import PartUnavailableError

HOST = "127.0.0.1"


def http_answers(url: str) -> dict[str, Any] | None:
    """A GET that is answered with a 2xx."""
    import httpx  # here, as the client of Kafka below: whoever only wants to know addresses starts sooner without

    try:
        if httpx.get(url, timeout=1.0, trust_env=False).is_success:
            return {"url": url}
    except httpx.HTTPError:
        pass
    return None


def kafka_answers(port: int) -> dict[str, Any] | None:
    """A broker that leads every partition it has."""
    if not port_open(port):
        return None
    from streams.clients import KafkaConfig, every_partition_is_led

    try:
        led = every_partition_is_led(KafkaConfig(f"{HOST}:{port}"), timeout_s=2.0)
    except PartUnavailableError:
        return None
    return {"port": port} if led else None


def redis_answers(port: int) -> dict[str, Any] | None:
    """A Redis that answers PING with PONG (while it loads its data it answers something else)."""
    try:
        with socket.create_connection((HOST, port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return {"port": port} if connection.recv(16).startswith(b"+PONG") else None
    except OSError:
        return None


def ready_file(path: Path, pid: int) -> dict[str, Any] | None:
    """A ready file that was written by this process, and that does not say that it is not ready yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("pid") == pid and found.get("ready", True) else None


def port_open(port: int) -> bool:
    """Whether something listens."""
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True
