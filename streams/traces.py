"""Traces: one transaction is one trace, from its HTTP call to its rows in ClickHouse. Off unless the settings say.

The context travels as the header `traceparent` (W3C) beside a command in `transactions.submitted`, and is copied as it
is beside its journal record: never into a value, so chain, hashes and replays know nothing of it. Only commands that
are sampled have the header. OpenTelemetry is imported when tracing is switched on and not before; while it is off, all
there is of it is the question whether `active` is None, once for a batch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from schemas.errors import BadInputError

HEADER = "traceparent"
_SAMPLED = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")


class Traced(NamedTuple):
    """A record that is followed: where it stands, and the context that came with it."""

    partition: int
    offset: int
    parent: bytes


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Where spans go (OTLP over HTTP, the base of the collector's URL), the share of calls that are followed, from 0 to
    1, and whether a caller's own trace is continued."""

    endpoint: str
    ratio: float = 0.01
    believe_callers: bool = False
    world: str = ""
    role: str = ""
    version: str = ""


class Traces(Protocol):
    """What roles tell a tracer. Times are nanoseconds since 1970 UTC, by this machine's clock."""

    def call(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Any:
        """Begins the span of a call and makes it the current one of this task. None when it is not followed."""

    def answered(self, span: Any, route: str, status: int) -> None:
        """Ends the span of a call."""

    def publishing(self, topic: str, command_id: bytes) -> tuple[Any, bytes] | None:
        """Begins the span of a command on its way to the broker; with its header. None when it is not followed."""

    def published(self, span: Any, partition: int, offset: int, error: str = "") -> None:
        """Ends it."""

    def settled(self, began: int, settled: int, committed: int, commands: int, followed: Sequence[Traced]) -> None:
        """A batch was settled and committed."""

    def inserted(self, began: int, ended: int, records: int, followed: Sequence[Traced]) -> None:
        """A batch of journal records is in ClickHouse, and proven."""

    def close(self) -> None:
        """Sends what is left."""


active: Traces | None = None


def switch_on(options: TraceOptions) -> Traces:
    """Traces from now on. Raises BadInputError when OpenTelemetry is not installed."""
    global active
    try:
        from streams.traces_otel import OpenTelemetry

        active = made = OpenTelemetry(options)
    except ImportError as e:
        raise BadInputError(
            f"CLEARLINE_TRACES__ENDPOINT is set and {e.name} is not installed: install the extra `clearline[traces]`, "
            "or requirements/traces.txt"
        ) from None
    return made


def follow_application() -> None:
    """Traces what a program publishes, if it has OpenTelemetry of its own: what it publishes inside a span is in that
    span's trace. A program without is left as it is."""
    global active
    if active is None and "opentelemetry.trace" in sys.modules:
        from streams.traces_otel import OpenTelemetry

        active = OpenTelemetry(None)


def switch_off() -> None:
    """Traces nothing any more, and sends what is left."""
    global active
    former, active = active, None
    if former is not None:
        former.close()


def parent_of(headers: Sequence[tuple[str, bytes | None]] | None) -> bytes:
    """The context in a record's headers; empty where there is none, or one that is not sampled or none at all."""
    for name, value in headers or ():
        if name == HEADER and value is not None and _SAMPLED.fullmatch(value):
            return value
    return b""


def followed(messages: Iterable[Any]) -> list[Traced]:
    """Those of a Kafka client's messages that are followed."""
    return [Traced(m.partition(), m.offset(), p) for m in messages if (p := parent_of(m.headers()))]
