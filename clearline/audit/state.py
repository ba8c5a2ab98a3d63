"""Compares `ledger.state`, from which a worker recovers, with the recomputation at the offset that the state names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clearline.audit.following import Rows
from clearline.audit.journal import Decode
from clearline.audit.recompute import Recomputation
from clearline.audit.rows import DELETABLE, StateRows
from clearline.audit.rows_due import (
    calendar_rows,
    crossing_rows,
    day_rows,
    limit_rows,
    ordered,
    partner_rows,
    product_rows,
    usage_rows,
)
from clearline.audit.verdict import Findings
from clearline.audit.views import STATE, SUBMITTED, Log
from schemas.codec import UndecodableError
from schemas.records import AccountState, HoldState, PartitionState, Record


@dataclass(slots=True)
class Counts:
    """What became of the commands of one partition up to a point of the log."""

    received: int = 0
    settled: int = 0
    rejected: int = 0
    repeated: int = 0
    applied: int = 0
    dead: int = 0
    event_time: int = 0

    def add(self, outcome: str) -> None:
        """Counts one outcome by its name in the journal, or `dead`."""
        setattr(self, outcome, getattr(self, outcome) + 1)


@dataclass(slots=True)
class StateCheck:
    """One partition's state topic: the last row of every key, and whether any row was older than one before it.

    Of holds only the open ones are kept, about 500 bytes each. `expiries` (hold id -> ms UTC) also has those that were
    closed since, as long as compaction has left a row of theirs: but only holds whose commands are no longer kept, for
    nothing else says when these lapse. `rows`: what else the rows say that the journal does not.
    """

    partition: int
    findings: Findings
    kept: StateRows = field(default_factory=StateRows)
    expiries: dict[bytes, int] = field(default_factory=dict)
    compared: bool = False

    @property
    def meta(self) -> PartitionState | None:
        """Where the partition stands."""
        return self.kept.meta

    @property
    def accounts(self) -> dict[str, AccountState]:
        """By account id."""
        return self.kept.accounts

    @property
    def rows(self) -> Rows:
        """Limits, calendars, products and flights."""
        return self.kept.said

    def read(self, log: Log, decode: Decode) -> None:
        """Reads the topic to its end. A row older than an earlier one of its key is a writer that was not fenced."""
        start, end = log.span(STATE, self.partition)
        kept_from, _ = log.span(SUBMITTED, self.partition)
        f = self.findings["state"]
        for raw in log.read(STATE, self.partition, start, end):
            at = f"ledger.state[{self.partition}] offset {raw.offset}"
            if raw.value is None and raw.key is not None and raw.key.startswith(DELETABLE):
                f.count("rows")
                if not self.kept.drop(raw.key):
                    f.differ(f"{at}: deletes {raw.key!r}, which is no row's key")
                continue
            try:
                row = decode(raw.value)
            except UndecodableError as e:
                f.differ(f"{at} does not decode: {e}")
                continue
            f.count("rows")
            before = self.kept.keep(raw.key, row)
            if isinstance(row, HoldState) and row.opened_at_offset < kept_from:
                self.expiries[row.hold_id] = row.expires_at
            if before is None:
                f.differ(f"{at}: key {raw.key!r} does not belong to a {type(row).__name__}")
            elif before[0] > before[1]:
                f.differ(
                    f"{at}: {(raw.key or b'').decode()} goes back from offset {before[0]} to {before[1]}: a stale row"
                )

    @property
    def next_offset(self) -> int:
        """First offset that the state does not hold yet."""
        return self.meta.next_offset if self.meta else 0

    def compare(self, model: Recomputation, counts: Counts, sequence: int, chain: bytes) -> None:
        """Compares everything. Call it when the recomputation took all commands before `next_offset`, once."""
        self.compared = True
        for name, row in self.accounts.items():
            self._account(model, name, row)
        for name in model.type.keys() - self.accounts.keys():
            self.findings["state"].differ(f"partition {self.partition} account {name}: no row")
        kept = self.kept
        self._same("partner", kept.partners, partner_rows(model))
        self._same("limits", kept.said.limits, limit_rows(model, kept.said.limits))
        self._same("usage", ordered(kept.usage), ordered(usage_rows(model, kept.usage)))
        self._same("frozen", kept.freezes, model.freezes)
        self._same("calendar", kept.said.calendars, calendar_rows(model, kept.said.calendars))
        self._same("product", kept.said.products, product_rows(model))
        self._same("day", kept.said.days, day_rows(model))
        self._same("in flight", kept.said.crossings, crossing_rows(model))
        self._holds(model)
        self._backing()
        self._head(model, counts, sequence, chain)
        self.findings["state"].count("accounts", len(self.accounts))

    def _same(self, what: str, rows: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> None:
        """Every row is as it must be, none is missing and none is too many."""
        f = self.findings["state"]
        f.count(what, len(rows))
        for name in rows.keys() | wanted.keys():
            row, right = rows.get(name), wanted.get(name)
            if row == right:
                continue
            at = f"partition {self.partition} {what} {_shown(name)}"
            if row is None:
                f.differ(f"{at}: no row, must be {right}")
            elif right is None:
                f.differ(f"{at}: has a row, and must have none")
            else:
                f.differ(f"{at}: {_unlike(row, right)}")

    def _holds(self, model: Recomputation) -> None:
        """Every open hold has its row, and no other hold has one."""
        open_holds = model.holds.by_id
        self.findings["state"].count("holds", len(self.kept.holds))
        for hold_id, row in self.kept.holds.items():
            h = open_holds.get(hold_id)
            at = f"partition {self.partition} hold {hold_id.hex()}"
            if h is None:
                self.findings["state"].differ(f"{at}: has a row, but is not open")
                continue
            expires_at = row.expires_at if h.expires_at is None else h.expires_at
            wanted = HoldState(hold_id, h.digest, h.partner, h.payer, h.payee, h.currency, h.amount, h.remaining,
                               expires_at, h.opened, h.changed)  # fmt: skip
            if row != wanted:
                self.findings["state"].differ(f"{at}: {_unlike(row, wanted)}")
        for hold_id in open_holds.keys() - self.kept.holds.keys():
            self.findings["state"].differ(f"partition {self.partition} hold {hold_id.hex()}: is open and has no row")

    def _backing(self) -> None:
        """What is pending on an account is what its open holds have left and what is in flight, by the rows alone: no
        money is stuck."""
        pending: dict[str, list[int]] = {}
        for h in self.kept.holds.values():
            pending.setdefault(h.payer, [0, 0])[0] += h.remaining
            pending.setdefault(h.payee, [0, 0])[1] += h.remaining
        for x in self.kept.said.crossings.values():
            for leg in () if x.reason else x.legs:  # a refused one waits for answers, and has nothing set aside
                pending.setdefault(leg.account_id, [0, 0])[leg.side == "credit"] += leg.amount
        for a, row in self.accounts.items():
            wanted = pending.get(a, [0, 0])
            if [row.debits_pending, row.credits_pending] != wanted:
                self.findings["pending"].differ(
                    f"partition {self.partition} account {a}: {row.debits_pending} and {row.credits_pending} are "
                    f"pending, its open holds and flights have {wanted[0]} and {wanted[1]} left"
                )

    def _account(self, model: Recomputation, a: str, row: AccountState) -> None:
        if a not in model.type:
            self.findings["state"].differ(f"partition {self.partition} account {a}: was never opened")
            return
        wanted = AccountState(
            a, model.type[a], model.currency[a], model.limit[a],
            model.debits_blocked[a], model.credits_blocked[a], model.closed[a],
            model.debits_pending[a], model.debits[a], model.credits_pending[a], model.credits[a], model.touched[a],
            model.frozen[a], model.credit_limit[a],
        )  # fmt: skip
        if row != wanted:
            self.findings["state"].differ(f"partition {self.partition} account {a}: {_unlike(row, wanted)}")

    def _head(self, model: Recomputation, counts: Counts, sequence: int, chain: bytes) -> None:
        f = self.findings["partition_state"]
        f.count("partitions")
        if self.meta is None:
            if counts.received:
                f.differ(f"partition {self.partition}: no row `meta` after {counts.received} commands")
            return
        wanted = {
            "sequence": sequence, "chain": chain, "event_time": counts.event_time, "received": counts.received,
            "settled": counts.settled, "rejected": counts.rejected, "repeated": counts.repeated,
            "applied": counts.applied, "dead": counts.dead,
            "closed_through": model.closed_through,
        }  # fmt: skip
        for name, right in wanted.items():
            found = getattr(self.meta, name)
            if found != right:
                text = (found.hex()[:16], right.hex()[:16]) if isinstance(right, bytes) else (found, right)
                f.differ(f"partition {self.partition}: {name} is {text[0]}, must be {text[1]}")


def _unlike(row: Record, wanted: Record) -> str:
    """Which fields of a row are not as they must be."""
    fields = [f for f in row.__struct_fields__ if getattr(row, f) != getattr(wanted, f)]
    return "; ".join(f"{f} is {getattr(row, f)}, must be {getattr(wanted, f)}" for f in fields)


def _shown(name: object) -> str:
    """The name of a row for people."""
    parts = name if isinstance(name, tuple) else (name,)
    return " ".join(p.hex() if isinstance(p, bytes) else str(p) for p in parts)
