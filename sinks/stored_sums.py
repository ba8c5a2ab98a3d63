"""What ClickHouse has of the journal, as control sums by part: the side of the tie-out that is asked by SQL.

A part never changes. Whoever alters or deletes rows makes new parts (a mutation, a lightweight delete), who adds rows
makes one more, and whoever drops some takes them away. So a sum over a part holds for as long as a part with these
contents is there, and only contents that were never seen are read: what came in, what was merged, and what somebody
changed, whichever part of history it is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.errors import BadInputError
from sinks.checksums import Table, named
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.layout import Layout

STRETCH = 65_536  # journal offsets that have sums of their own: what is read when they differ
MODULUS = 1 << 64
# What a migration does to parts without touching a row's values.
_HARMLESS = ("MATERIALIZE ", "(MATERIALIZE ")


class Key(NamedTuple):
    """What sums are kept by. `month`: yyyymm of booking; `stretch`: journal offset // STRETCH; `currency`: empty in
    tables without amounts."""

    table: str
    partition: int
    month: int
    stretch: int
    currency: str


class Sums(NamedTuple):
    """Control sums of rows: how many, their amounts by side in minor units, their checksums modulo 2^64."""

    rows: int = 0
    debits: int = 0
    credits: int = 0
    checksum: int = 0

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """Both together; `sign` -1: without the other."""
        return Sums(
            self.rows + sign * other.rows,
            self.debits + sign * other.debits,
            self.credits + sign * other.credits,
            (self.checksum + sign * other.checksum) % MODULUS,
        )


NONE = Sums()


class Part(NamedTuple):
    """An active part. `contents`: the server's hash of its files; `mutation`: number of its last one, 0 for none;
    blocks, level and mutation are those of its name."""

    table: str
    name: str
    contents: str
    rows: int
    month: int
    first_block: int
    last_block: int
    mutation: int


@dataclass(slots=True)
class PartSums:
    """Sums of a part's rows that are within the cut; beyond it, by partition, the largest offset and how many rows.
    `foreign`: rows of another journal."""

    within: dict[Key, Sums] = field(default_factory=dict)
    beyond: dict[int, tuple[int, int]] = field(default_factory=dict)
    foreign: int = 0

    def add(self, other: PartSums) -> None:
        """Takes in the sums of another slice of the part."""
        for key, sums in other.within.items():
            self.within[key] = self.within.get(key, NONE).plus(sums)
        for p, (last, count) in other.beyond.items():
            before = self.beyond.get(p, (0, 0))
            self.beyond[p] = max(last, before[0]), count + before[1]
        self.foreign += other.foreign

    @property
    def whole(self) -> bool:
        """Whether every row counts, so that the sums hold for as long as the part is there."""
        return not self.beyond and not self.foreign


class StoredSums:
    """Asks ClickHouse. `topic`: the journal's name and id, `name@id`. Every call raises what `Database` raises.

    On a cluster it asks the server that it is connected to, which must have all of the ledger: one shard.
    """

    def __init__(self, config: ClickHouseConfig, topic: str) -> None:
        self._db = Database(config)
        self._topic = topic
        self._database = Layout(config).local

    def close(self) -> None:
        self._db.close()

    def heads(self, ends: Mapping[int, int] | None = None) -> dict[int, int]:
        """The offset after the last outcome of each partition; `ends`: only what is before these offsets counts."""
        limit = f" AND {_within(ends)}" if ends else ""
        rows = self._ask(f"SELECT partition, max(offset) + 1 FROM {{db}}.outcomes WHERE topic = %(topic)s{limit} "
                         "GROUP BY partition")  # fmt: skip
        return {int(p): int(end) for p, end in rows}

    def tables(self) -> dict[str, str]:
        """Which table stands under each name: another id is another table. Raises BadInputError on several shards."""
        if cluster := self._db.config.cluster:
            ((shards,),) = self._db.rows(
                "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = %(c)s", {"c": cluster}
            )
            if shards > 1:
                raise BadInputError(f"the tie-out is made for one shard; cluster {cluster} has {shards}")
        rows = self._ask("SELECT name, toString(uuid) FROM system.tables WHERE database = %(db)s")
        return {str(name): str(uuid) for name, uuid in rows}

    def parts(self, table: str) -> list[Part]:
        """The active parts of a table, at one moment. Patches that are not merged into their parts yet (lightweight
        updates) count as contents of every part of their month."""
        rows = self._ask(
            "SELECT name, partition_id, hash_of_all_files, rows, min_block_number, max_block_number FROM system.parts "
            "WHERE database = %(db)s AND table = %(table)s AND active", {"table": table},
        )  # fmt: skip
        patches = sorted(f"{name}:{contents}" for name, _, contents, *_ in rows if name.startswith("patch-"))
        out = []
        for name, partition, contents, count, first, last in rows:
            if not name.startswith("patch-"):
                month = int(partition) if str(partition).isdigit() else 0
                seen = ",".join([contents, *patches])
                out.append(Part(table, name, seen, int(count), month, int(first), int(last), _mutation(name)))
        return out

    def mutations(self) -> dict[tuple[str, int], str]:
        """Commands that changed rows, by table and number, which no migration gives."""
        rows = self._ask("SELECT table, mutation_id, command FROM system.mutations WHERE database = %(db)s")
        return {
            (str(table), int("".join(c for c in name if c.isdigit()) or 0)): str(command)
            for table, name, command in rows
            if not str(command).startswith(_HARMLESS)
        }

    def sums(
        self, table: Table, parts: Sequence[str] | None, ends: Mapping[int, int], rows: tuple[int, int] | None = None
    ) -> dict[str, PartSums]:
        """Sums by part. A part that is not active any more has none; None: of every part that is active now. `ends`:
        the cut, offset after the last of each partition; `rows`: only these of a part, from and to, numbered as they
        lie in it."""
        amount = table.amount[0] if table.amount else "0"
        currency, side = ("currency", "side = 'debit'") if table.amount else ("''", "0")
        chosen = "1" if parts is None else "_part IN %(parts)s"
        piece = " AND _part_offset >= %(from)s AND _part_offset < %(to)s" if rows else ""
        found = self._ask(
            f"SELECT _part, topic = %(topic)s AS ours, partition, toUInt32OrZero(any(_partition_id)), "
            f"intDiv(offset, {STRETCH}) AS stretch, {currency} AS cur, {_within(ends)} AS inside, count(), "
            f"sumIf({amount}, {side}), sumIf({amount}, NOT ({side})), sum({table.checksum}), max(offset) "
            f"FROM {{db}}.{table.name} WHERE {chosen}{piece} "
            "GROUP BY _part, ours, partition, stretch, cur, inside SETTINGS optimize_use_projections = 0",
            {"parts": tuple(parts or ()), "from": rows[0] if rows else 0, "to": rows[1] if rows else 0},
        )
        out: dict[str, PartSums] = {}
        for part, ours, p, month, stretch, cur, inside, count, debits, credits_, checksum, last in found:
            sums = out.setdefault(part, PartSums())
            if not ours:
                sums.foreign += count
            elif not inside:
                before = sums.beyond.get(p, (0, 0))
                sums.beyond[p] = max(last, before[0]), count + before[1]
            else:
                key = Key(table.name, int(p), int(month), int(stretch), cur)
                found_sums = Sums(int(count), int(debits), int(credits_), int(checksum))
                sums.within[key] = sums.within.get(key, NONE).plus(found_sums)
        return out

    def by_offset(self, table: Table, key: Key, end: int) -> dict[int, tuple[int, int]]:
        """Count and checksum of the rows of each offset of a stretch, below `end`, in the stretch's month."""
        found = self._ask(
            f"SELECT offset, count(), sum({table.checksum}) FROM {{db}}.{table.name} WHERE {_OF_STRETCH} "
            "GROUP BY offset SETTINGS optimize_use_projections = 0", _bounds(key, end),
        )  # fmt: skip
        return {int(offset): (int(count), int(checksum)) for offset, count, checksum in found}

    def rows(self, table: Table, key: Key, offsets: Iterable[int]) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Every copy of the rows at these offsets, as `checksums.named` gives them."""
        found = self._ask(
            f"SELECT {table.values} FROM {{db}}.{table.name} WHERE {_OF_STRETCH} AND offset IN %(offsets)s "
            "SETTINGS optimize_use_projections = 0", {**_bounds(key, 2**63), "offsets": tuple(offsets)},
        )  # fmt: skip
        return named(table, found)

    def strays(self, table: Table, parts: Sequence[str], ends: Mapping[int, int], count: int) -> list[tuple[Any, ...]]:
        """Rows of these parts that are at or after `ends` or of another journal: topic, partition, offset, and the
        account or subject."""
        who = "account_id" if table.amount else "subject_id"
        return self._ask(
            f"SELECT topic, partition, offset, {who} FROM {{db}}.{table.name} WHERE _part IN %(parts)s AND "
            f"(topic != %(topic)s OR NOT ({_within(ends)})) ORDER BY partition, offset LIMIT {count}",
            {"parts": tuple(parts)},
        )

    def _ask(self, query: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        named_here = {"topic": self._topic, "db": self._database, **(params or {})}
        return self._db.rows(query.replace("{db}", self._database), named_here)


_OF_STRETCH = (
    "topic = %(topic)s AND partition = %(p)s AND offset >= %(from)s AND offset < %(to)s AND _partition_id = %(month)s"
)


def _bounds(key: Key, end: int) -> dict[str, Any]:
    first = key.stretch * STRETCH
    return {"p": key.partition, "from": first, "to": min(first + STRETCH, end), "month": str(key.month)}


def _within(ends: Mapping[int, int]) -> str:
    """SQL: whether a row is before the cut. An array says 0 beyond its end, so other partitions are not."""
    by_partition = [ends.get(p, 0) for p in range(max(ends, default=-1) + 1)] or [0]
    return f"offset < {by_partition}[toUInt32(partition) + 1]"


def _mutation(name: str) -> int:
    """The number of the last mutation in a part's name: month_first_last_level[_mutation]."""
    pieces = name.split("_")
    return int(pieces[4]) if len(pieces) == 5 else 0
