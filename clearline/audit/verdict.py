"""What a check found: one small, printable shape for every check, so that people and programs read the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIFFERENCES_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One named check. `figures` are what was counted; `differences` the first 20 of `differences_total`."""

    name: str
    ok: bool
    figures: Mapping[str, int | str]
    differences: tuple[str, ...] = ()
    differences_total: int = 0

    def line(self) -> str:
        """One line for people, such as `ok    chain: records 20000`."""
        figures = ", ".join(f"{k} {v}" for k, v in self.figures.items())
        mark = "ok   " if self.ok else "WRONG"
        return f"{mark} {self.name}: {figures}" if figures else f"{mark} {self.name}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "figures": dict(self.figures),
            "differences": list(self.differences),
            "differences_total": self.differences_total,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one run. `waiting`: commands without an outcome yet; `notes`: what a reader must know."""

    world: str
    checks: tuple[Check, ...]
    commands: int
    waiting: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that found a difference."""
        return tuple(c.name for c in self.checks if not c.ok)

    def check(self, name: str) -> Check:
        """The check of that name. Raises KeyError."""
        for c in self.checks:
            if c.name == name:
                return c
        raise KeyError(name)

    def lines(self) -> list[str]:
        """The verdict for people: one line per check, its first differences below it, the conclusion last."""
        out = [f"note: {n}" for n in self.notes]
        for c in self.checks:
            out.append(c.line())
            out += [f"      {d}" for d in c.differences]
            if c.differences_total > len(c.differences):
                out.append(f"      ... and {c.differences_total - len(c.differences)} more")
        rate = round(self.commands / self.seconds) if self.seconds else 0
        waiting = f", {self.waiting} wait for their outcome" if self.waiting else ""
        conclusion = "every check holds" if self.ok else f"differences in {', '.join(self.failed)}"
        out.append(f"{self.commands} commands checked in {self.seconds:.1f} s ({rate}/s){waiting}: {conclusion}")
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "world": self.world,
            "ok": self.ok,
            "commands": self.commands,
            "waiting": self.waiting,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "checks": [c.to_dict() for c in self.checks],
        }


@dataclass(slots=True)
class Finding:
    """A check while it runs: counts figures, keeps the first differences, counts the rest."""

    name: str
    figures: dict[str, int | str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    differences_total: int = 0

    def count(self, figure: str, by: int = 1) -> None:
        """Adds to a figure."""
        self.figures[figure] = int(self.figures.get(figure, 0)) + by

    def differ(self, text: str) -> None:
        """Notes one difference."""
        self.differences_total += 1
        if len(self.differences) < DIFFERENCES_SHOWN_MAX:
            self.differences.append(text)

    def check(self) -> Check:
        """The finished check."""
        return Check(
            self.name, not self.differences_total, dict(self.figures), tuple(self.differences), self.differences_total
        )


class Findings:
    """The checks of one run by name, in the order in which they are first named."""

    def __init__(self, *names: str) -> None:
        self._by_name = {n: Finding(n) for n in names}

    def __getitem__(self, name: str) -> Finding:
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = Finding(name)
        return found

    def checks(self) -> tuple[Check, ...]:
        return tuple(f.check() for f in self._by_name.values())
