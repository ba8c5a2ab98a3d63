"""Dead letters in groups: what died of the same cause, how many, whence, and since when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clearline.deadletters.match import Facts
from clearline.deadletters.moves import OPEN, STATES

_PARTNERS_SHOWN = 5


@dataclass(slots=True)
class Group:
    """Letters of one reason and one kind of detail. Times in milliseconds UTC."""

    reason: str
    pattern: str
    states: Counter[str] = field(default_factory=Counter)
    partitions: Counter[int] = field(default_factory=Counter)
    partners: Counter[str] = field(default_factory=Counter)
    first_at: int = 0
    last_at: int = 0
    attempts_max: int = 0
    example: str = ""

    @property
    def count(self) -> int:
        return self.states.total()

    @property
    def open(self) -> int:
        """Those with which nothing was done."""
        return self.states[OPEN]

    def take(self, facts: Facts) -> None:
        """One more letter."""
        self.states[facts.state] += 1
        self.partitions[facts.partition] += 1
        self.partners[facts.partner] += 1
        self.first_at = min(self.first_at or facts.received, facts.received)
        self.last_at = max(self.last_at, facts.received)
        self.attempts_max = max(self.attempts_max, facts.attempts)
        self.example = facts.id

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `match`: the conditions that name exactly this group."""
        return {
            "reason": self.reason,
            "pattern": self.pattern,
            "count": self.count,
            **{state: self.states[state] for state in STATES},
            "partitions": {str(p): n for p, n in sorted(self.partitions.items())},
            "partners": dict(self.partners.most_common(_PARTNERS_SHOWN)),
            "partners_count": len(self.partners),
            "first_at": self.first_at,
            "last_at": self.last_at,
            "attempts_max": self.attempts_max,
            "example": self.example,
            "match": [f"reason={self.reason}", f"pattern={self.pattern}"],
        }


def group(letters: Iterable[Facts]) -> list[Group]:
    """The groups of these letters, the largest open ones first."""
    groups: dict[tuple[str, str], Group] = {}
    for facts in letters:
        key = facts.reason, facts.pattern
        if key not in groups:
            groups[key] = Group(*key)
        groups[key].take(facts)
    return sorted(groups.values(), key=lambda g: (-g.open, -g.count, g.reason, g.pattern))
