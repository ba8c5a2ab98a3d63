"""Dead letters into ClickHouse, with their bytes as they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sinks.log_sink import INSERT_BYTES, Logged, LogSink, objects

__all__ = ["INSERT_BYTES", "DeadLetterSink", "Letter"]

Letter = Logged  # its record is a DeadLetter
_TEXTS = ("source_topic", "reason", "detail")


class DeadLetterSink(LogSink):
    """Writes dead letters. `topic`: name and id of transactions.dead."""

    table = "dead_letters"
    what = "dead letters"

    def bytes_of(self, x: Logged) -> int:
        """A dead letter may be a megabyte."""
        return len(x.record.value or b"") + 200

    def columns(self, records: Sequence[Logged]) -> dict[str, Any]:
        """What a letter says of itself, in numbers that the columns hold."""
        letters = [x.record for x in records]
        return {
            "source_partition": np.clip([r.source_partition for r in letters], -1, 2**31 - 1),
            "source_offset": np.array([r.source_offset for r in letters], dtype=np.int64),
            "received_at": np.clip([r.received_at for r in letters], 0, 10**13),
            "attempts": np.clip([r.attempts for r in letters], 0, 2**32 - 1),
            **{name: objects([getattr(r, name).encode() for r in letters]) for name in _TEXTS},
            "key": objects([r.key or b"" for r in letters]),
            "value": objects([r.value or b"" for r in letters]),
        }
