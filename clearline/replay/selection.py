"""What an operator chose: which partitions are read, up to where, and which outcomes are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ledger.names import within
from schemas.errors import BadInputError
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import JournalRecord

EVER = 1 << 62  # beyond every offset and time


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a stretch of the log: a time (ms UTC), or offsets by partition. Neither: no bound.

    `everywhere`: one offset for all partitions.
    """

    text: str = ""
    at_ms: int | None = None
    everywhere: int | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)

    def offset(self, partition: int, otherwise: int) -> int:
        """The offset for a partition, when the bound is one of offsets."""
        return self.offsets.get(partition, otherwise if self.everywhere is None else self.everywhere)


def bound_of(text: str, option: str) -> Bound:
    """A bound as it is typed: `2026-11-26T08:00`, `2026-11-26`, an offset `1200`, or `0:1200,3:900`.

    Times without a zone are UTC. Raises BadInputError.
    """
    if not text:
        return Bound()
    if text.isdecimal() and len(text) < 19:
        return Bound(text, everywhere=int(text))
    pieces = [piece.partition(":") for piece in text.split(",")]
    if all(p.isdecimal() and o.isdecimal() and len(p) < 6 and len(o) < 19 for p, _, o in pieces):
        return Bound(text, offsets={int(p): int(o) for p, _, o in pieces})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInputError(
            f"{option} {text}: a time such as 2026-11-26T08:00, an offset such as 1200, or PARTITION:OFFSET,..."
        ) from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Bound(text, at_ms=round(at.timestamp() * 1000))


@dataclass(frozen=True, slots=True)
class Selection:
    """`partner`: it and all below it; `account`, `product`: exactly these. Empty: everything."""

    partner: str = ""
    account: str = ""
    product: str = ""
    since: str = ""
    until: str = ""
    partitions: tuple[int, ...] = ()

    @property
    def narrows(self) -> bool:
        """Whether only a part of the outcomes is compared."""
        return any((self.partner, self.account, self.product, self.since))

    def places(self, partitions: int) -> list[int]:
        """The partitions to read: those asked for, and of them only where the partner or account can be.

        Raises BadInputError when nothing is left, or there is no such partition.
        """
        wrong = [p for p in self.partitions if not 0 <= p < partitions]
        if wrong:
            raise BadInputError(f"--partition {wrong[0]}: there are partitions 0 to {partitions - 1}")
        chosen = set(self.partitions) or set(range(partitions))
        for root in {root_of(self.partner), root_of(owner_of(self.account))} - {"", BANK}:
            chosen &= {partition_of(root, partitions)}
        if not chosen:
            raise BadInputError("nothing is selected: the partner or account lies in another partition")
        return sorted(chosen)

    def takes(self, r: JournalRecord) -> bool:
        """Whether an outcome is one of the partner, product and account that are compared."""
        if self.partner and not (within(r.partner_id, self.partner) or within(owner_of(r.subject_id), self.partner)):
            return False
        if self.product and r.product != self.product:
            return False
        return not self.account or r.subject_id == self.account or self.account in _accounts(r)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for plans and diffs."""
        return {
            "partner": self.partner, "account": self.account, "product": self.product, "from": self.since,
            "to": self.until, "partitions": list(self.partitions),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Selection:
        """The selection that `to_dict` wrote."""
        return cls(d["partner"], d["account"], d["product"], d["from"], d["to"], tuple(d["partitions"]))

    def words(self) -> str:
        """In words: what is compared."""
        named = (("partner", self.partner), ("account", self.account), ("product", self.product),
                 ("from", self.since), ("to", self.until))  # fmt: skip
        parts = [f"{name} {value}" for name, value in named if value]
        if self.partitions:
            parts.append(f"partitions {', '.join(map(str, self.partitions))}")
        return ", ".join(parts) or "everything"


def _accounts(r: JournalRecord) -> Iterable[str]:
    return {leg.account_id for legs in (r.postings, r.pending) for leg in legs}
