"""Freezing accounts, partners with their subtree, products and the world, and what is frozen now.

What a freeze stops is in docs/operations.md, "Freezes". It is one command, so it holds from the next one on that is
appended after it; a product's or the world's goes to every partition, and holds in each as soon as it is read there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from clearline.connection import Connection
from clearline.control import RejectedError, ask, new_key
from clearline.outcomes import Outcome
from ledger.freezes import ACCOUNT, LEVELS, PARTNER, PRODUCT, THE_WORLD, WORLD
from ledger.reasons import Reason
from schemas.errors import BadInputError
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import FreezeState, SetFreeze

if TYPE_CHECKING:  # who freezes is in a hurry, and only who looks needs them
    from clearline.directory import Directory
    from streams.state_rows import StateRows

__all__ = ["ACCOUNT", "LEVELS", "PARTNER", "PRODUCT", "WORLD", "Frozen", "frozen_in", "frozen_now", "set_freeze"]

_EVERYWHERE = (PRODUCT, WORLD)


class Frozen(NamedTuple):
    """One subject that is frozen. `since`: milliseconds UTC. `partitions`: in which it is; `missing`: in which it must
    be, and is not yet. Who and why are empty for an account that BlockAccount froze: the journal has them."""

    level: str
    subject_id: str
    requested_by: str
    note: str
    approved_by: str
    since: int
    partitions: tuple[int, ...]
    missing: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "partitions": list(self.partitions), "missing": list(self.missing)}


def command_of(
    world: str, level: str, subject_id: str, frozen: bool, *, by: str, note: str, approved_by: str = "", key: str = ""
) -> SetFreeze:
    """The command. `subject_id` of level world: this world's own name, as a person writes it who knows where he is,
    `world`, or empty. Raises BadInputError for another world's name, or another level."""
    if level not in LEVELS:
        raise BadInputError(f"the level must be one of {', '.join(LEVELS)}; {level!r} is none of them")
    if level == WORLD:
        if subject_id not in ("", THE_WORLD, world):
            raise BadInputError(f"this is the world {world}, not {subject_id}; `--world NAME` goes to another")
        subject_id = THE_WORLD
    return SetFreeze(BANK, key or new_key(), level, subject_id, frozen, by, note, approved_by)


def set_freeze(
    system: Connection, level: str, subject_id: str, frozen: bool, *, by: str, note: str, approved_by: str = "",
    key: str = "", stall_s: float = 30.0,
) -> list[Outcome]:  # fmt: skip
    """Freezes or lifts, and waits until it holds in every partition concerned: one outcome for each.

    `by` and `note` must be given; to lift a partner's or the world's freeze takes `approved_by`, another person.
    Raises RejectedError, BadInputError, and PartUnavailableError when no worker answers in `stall_s`.
    """
    command = command_of(
        system.topics.world, level, subject_id, frozen, by=by, note=note, approved_by=approved_by, key=key
    )
    outcomes = ask(system, command, stall_s)
    wrong = [o for o in outcomes if o.outcome in ("rejected", "dead")]
    # An account of the bank has a shard in each partition in which somebody opened it, and none in the others.
    shards = level == ACCOUNT and root_of(owner_of(subject_id)) == BANK
    if shards and len(wrong) < len(outcomes):
        wrong = [o for o in wrong if o.reason != Reason.ACCOUNT_UNKNOWN]
    if wrong:
        raise RejectedError(f"{'freeze' if frozen else 'unfreeze'} {level} {subject_id}", wrong[0])
    return [o for o in outcomes if o.outcome != "rejected"]


def frozen_now(system: Connection) -> list[Frozen]:
    """What is frozen, read from `ledger.state` to its end: by level, then by subject."""
    from clearline.directory import read_directory

    found = read_directory(system)
    rows = [(p, row) for p, kept in found.rows.items() for row in kept.values() if isinstance(row, FreezeState)]
    return _merged(rows, system.partitions, found)


def frozen_in(rows: StateRows, partitions: int) -> list[Frozen]:
    """The same of a state that is followed anyway, without accounts that only BlockAccount froze.

    Raises PartUnavailableError while the state is still being read."""
    found = []
    for p in range(partitions):
        for key in rows.keys(p, "f:"):
            row = rows.row(p, key)
            if isinstance(row, FreezeState):
                found.append((p, row))
    return _merged(found, partitions)


def _merged(rows: Iterable[tuple[int, FreezeState]], partitions: int, found: Directory | None = None) -> list[Frozen]:
    """One entry for each subject, whatever the number of partitions; the earliest says who and why."""
    by_subject: dict[tuple[str, str], list[tuple[int, FreezeState]]] = {}
    for p, row in rows:
        by_subject.setdefault((row.level, row.subject_id), []).append((p, row))
    out = []
    for (level, subject), held in by_subject.items():
        first = min((row for _, row in held), key=lambda r: r.since)
        there = tuple(sorted(p for p, _ in held))
        missing = tuple(p for p in range(partitions) if p not in there) if level in _EVERYWHERE else ()
        out.append(
            Frozen(level, subject, first.requested_by, first.note, first.approved_by, first.since, there, missing)
        )
    for account_id, shards in found.accounts.items() if found else ():
        if (ACCOUNT, account_id) not in by_subject and any(s.frozen for s in shards):
            root = root_of(owner_of(account_id))
            there = () if root == BANK else (partition_of(root, partitions),)
            out.append(Frozen(ACCOUNT, account_id, "", "", "", 0, there))
    return sorted(out, key=lambda f: (LEVELS.index(f.level), f.subject_id))
