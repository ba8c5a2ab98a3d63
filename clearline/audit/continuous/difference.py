"""What the tie-out says: differences with their names, and one word for each of the three and for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

KAFKA, CLICKHOUSE, REDIS = "kafka", "clickhouse", "redis"
PARTS = (KAFKA, CLICKHOUSE, REDIS)


class Verdict(IntEnum):
    """The higher, the more it hides the others.

    `BEHIND`: equal as far as it was compared, but that is longer ago than it may be. `CHECKING`: equal so far, and not
    everything was read yet. `REBUILDING`: a projection is being filled again. `UNAVAILABLE`: a part does not answer.
    """

    EQUAL = 0
    BEHIND = 1
    CHECKING = 2
    REBUILDING = 3
    UNAVAILABLE = 4
    DIFFERS = 5

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a part is not what the journal says. `account` and `transaction`: empty where it has none;
    a transaction is named by its partner and idempotency key; amounts in the text are in minor units."""

    part: str
    partition: int
    text: str
    account: str = ""
    transaction: str = ""

    @property
    def line(self) -> str:
        return f"partition {self.partition}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "part": self.part, "partition": self.partition, "account": self.account, "transaction": self.transaction,
            "text": self.text,
        }  # fmt: skip


@dataclass(slots=True)
class Finding:
    """What one round found of one part. `count`: how many differ, of which `differences` names the first.

    `lag_s`: for how long something is there that was not compared yet. `said`: why it is not simply equal.
    """

    part: str
    verdict: Verdict = Verdict.EQUAL
    differences: list[Difference] = field(default_factory=list)
    count: int = 0
    lag_s: float = 0.0
    said: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict.word, "lag_seconds": round(self.lag_s, 2), "differences": self.count,
            "said": self.said, **self.more,
        }  # fmt: skip
