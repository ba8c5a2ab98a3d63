"""Which records may reach the ledger at all. What breaks these rules must be a dead letter, never an outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.codec import UndecodableError
from schemas.identity import BANK, partition_of, tree_of
from schemas.records import COMMANDS, Crossing

PARTNER_CHARS_MAX = 256
KEY_CHARS_MAX = 128
MESSAGE_BYTES_MAX = 1_000_000
LEAST_BYTES_MAX = 1_024  # no settings take less
DAY_MS = 86_400_000
QUARTERS = 4
STEPS = ("reserve", "reserved", "refused", "commit", "void")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings promise: the largest command in bytes, and for how many days a key is remembered at least.
    `schema_ids`: of the schemas that every worker knows from its start."""

    partitions: int
    message_bytes_max: int = MESSAGE_BYTES_MAX
    idempotency_days: int = 30
    schema_ids: frozenset[int] = frozenset()
    _places: dict[str, int] = field(default_factory=dict, repr=False)

    def quarter(self, time_ms: int) -> int:
        """Keys are forgotten by quarters of the window, counted since 1970, so that the log alone decides when."""
        return time_ms // max(1, self.idempotency_days * DAY_MS // QUARTERS)

    def forgotten(self, bound_ms: int, now_ms: int) -> bool:
        """Whether a key bound at `bound_ms` may be used anew at event time `now_ms`."""
        return self.quarter(bound_ms) < self.quarter(now_ms) - QUARTERS

    def refuse_size(self, value: bytes | None) -> None:
        """Raises UndecodableError("too_large")."""
        if value is not None and len(value) > self.message_bytes_max:
            raise UndecodableError("too_large", f"{len(value)} bytes")

    def refuse(self, command: Any, partition: int) -> None:
        """Raises UndecodableError("contract") for what decodes and yet is no command of this partition."""
        if not isinstance(command, COMMANDS):
            raise UndecodableError("contract", f"a {type(command).__name__} is not a command")
        partner, key = command.partner_id, command.idempotency_key  # type: ignore[attr-defined]
        if not partner or len(partner) > PARTNER_CHARS_MAX or "\0" in partner:
            raise UndecodableError("contract", "partner_id")
        if not key or len(key) > KEY_CHARS_MAX or "\0" in key:
            raise UndecodableError("contract", "idempotency_key")
        if isinstance(command, Crossing):
            self._refuse_step(command, partition)
        root = tree_of(command)  # type: ignore[arg-type]
        if root != BANK and self.place(root) != partition:
            raise UndecodableError("contract", f"commands of {root} do not belong to partition {partition}")

    def _refuse_step(self, c: Crossing, partition: int) -> None:
        """A step between partitions is the bank's, is one of five, and goes from another partition to this one."""
        if c.partner_id != BANK or c.step not in STEPS:
            raise UndecodableError("contract", f"{c.partner_id} asks for step {c.step}")
        others = range(self.partitions)
        if c.to_partition != partition or c.from_partition == partition or c.from_partition not in others:
            raise UndecodableError("contract", f"goes from partition {c.from_partition} to {c.to_partition}")

    def place(self, root: str) -> int:
        """The partition of a root partner."""
        found = self._places.get(root)
        if found is None:
            found = self._places[root] = partition_of(root, self.partitions)
        return found
