"""What a letter's bytes are now: a command that can be put back, and where, or why they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from processors.settlement import KEY_MAX, PARTNER_ID_MAX
from schemas.codec import HEADER_BYTES, MAGIC, Codec, UndecodableError, UnknownSchemaError
from schemas.identity import BANK, partition_of, route_of, tree_of
from schemas.records import COMMANDS, Command, Crossing, Transaction

Learn = Callable[[set[int]], None]


class Refusal(Exception):  # noqa: N818 - a value more than an error: it is counted, and shown beside its letter
    """Why nothing is put back for a letter: a stable code, and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Route(NamedTuple):
    """Where a command belongs."""

    partition: int
    key: bytes


class Judge:
    """Reads bytes with what the registry knows now. `learn` teaches the codec the schemas behind these ids, those that
    the registry has. `bytes_max`: of one command, as the workers take it."""

    def __init__(self, codec: Codec, learn: Learn, partitions: int, bytes_max: int) -> None:
        self.codec = codec
        self._learn = learn
        self._partitions = partitions
        self._bytes_max = bytes_max
        self._asked: set[int] = set()

    def read(self, value: bytes | None) -> Any:
        """The record in these bytes. Raises UndecodableError."""
        try:
            return self.codec.decode(value)
        except UnknownSchemaError as e:
            if e.schema_id in self._asked:
                raise
            self._asked.add(e.schema_id)
            self._learn({e.schema_id})
            return self.codec.decode(value)

    def command(self, value: bytes | None) -> Command:
        """The command in these bytes, if the workers would take it from its right place. Raises Refusal."""
        try:
            command = self.read(value)
        except UndecodableError as e:
            raise Refusal("undecodable", f"{e}: only a correction can be put back, or the schema be registered") from e
        if not isinstance(command, COMMANDS):
            raise Refusal("no_command", f"a {type(command).__name__} is no command: only a correction can be put back")
        partner, key = command.partner_id, command.idempotency_key  # type: ignore[attr-defined]
        if not 0 < len(partner) <= PARTNER_ID_MAX or "\0" in partner:
            raise Refusal("contract", f"partner_id must have 1 to {PARTNER_ID_MAX} characters and no NUL")
        if not 0 < len(key) <= KEY_MAX or "\0" in key:
            raise Refusal("contract", f"idempotency_key must have 1 to {KEY_MAX} characters and no NUL")
        if not isinstance(command, Crossing) and len(value or b"") > self._bytes_max:
            raise Refusal("too_large", f"{len(value or b'')} bytes, at most {self._bytes_max} are taken")
        return command  # type: ignore[return-value]

    def route(self, command: Command, partition: int) -> Route:
        """Where it belongs, whose letter came from `partition`. Raises Refusal.

        What every partition was told died in each of them, and each has its own letter: such a command goes back where
        it was. So does a step between partitions, which is never moved: nobody but the workers may write one elsewhere.
        """
        if isinstance(command, Crossing):
            if command.to_partition != partition:
                raise Refusal("misplaced_step", f"a step to partition {command.to_partition} stood in {partition}")
            return Route(partition, BANK.encode())
        if tree_of(command) == BANK and not isinstance(command, Transaction):
            return Route(partition, BANK.encode())
        key, (place,) = route_of(command, self._partitions)
        return Route(place, key)

    def is_for_all(self, command: Command) -> bool:
        """Whether every partition was told this, or it is a step of a worker: nothing that one letter may change."""
        return isinstance(command, Crossing) or (tree_of(command) == BANK and not isinstance(command, Transaction))

    def root_place(self, partner_id: str) -> int:
        """The partition of a partner's tree."""
        return partition_of(partner_id, self._partitions)


def schema_id_of(value: bytes | None) -> int:
    """The schema id that bytes carry; -1 for none."""
    if value is None or len(value) < HEADER_BYTES or value[:1] != MAGIC:
        return -1
    return int.from_bytes(value[1:HEADER_BYTES], "big")
