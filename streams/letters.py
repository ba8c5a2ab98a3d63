"""Dead letters as they stand in their topic: the original bytes, and in the headers where they came from and why."""

from __future__ import annotations

from schemas.records import DeadLetter
from streams.reader import LogRecord


def letter_of(r: LogRecord) -> DeadLetter:
    """The dead letter in a record of transactions.dead: headers tell where it came from."""
    h = {k: (v or b"").decode("utf-8", "replace") for k, v in r.headers or []}

    def number(name: str, otherwise: int) -> int:
        text = h.get(name, "")
        return int(text) if text.removeprefix("-").isdecimal() and len(text) < 19 else otherwise

    return DeadLetter(
        h.get("source_topic", ""), number("source_partition", r.partition), number("source_offset", -1),
        number("received_at", r.timestamp_ms), h.get("reason", ""), h.get("detail", ""), number("attempts", 1),
        r.key, r.value,
    )  # fmt: skip
