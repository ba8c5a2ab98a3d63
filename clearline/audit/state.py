"""Compares `ledger.state`, from which a worker recovers, with the recomputation at the offset that the state names."""

from __future__ import annotations

from dataclasses import dataclass, field

from clearline.audit.journal import Decode
from clearline.audit.recompute import Recomputation
from clearline.audit.verdict import Findings
from clearline.audit.views import STATE, Log
from schemas.codec import UndecodableError
from schemas.records import AccountState, PartitionState, PartnerState

META_KEY = b"meta"


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
    """One partition's state topic: the last row of every key, and whether any row was older than one before it."""

    partition: int
    findings: Findings
    meta: PartitionState | None = None
    accounts: dict[str, AccountState] = field(default_factory=dict)
    partners: dict[str, PartnerState] = field(default_factory=dict)
    compared: bool = False

    def read(self, log: Log, decode: Decode) -> None:
        """Reads the topic to its end. A row older than an earlier one of its key is a writer that was not fenced."""
        start, end = log.span(STATE, self.partition)
        for raw in log.read(STATE, self.partition, start, end):
            at = f"ledger.state[{self.partition}] offset {raw.offset}"
            try:
                row = decode(raw.value)
            except UndecodableError as e:
                self.findings["state"].differ(f"{at} does not decode: {e}")
                continue
            self.findings["state"].count("rows")
            before = self._keep(raw.key, row)
            if before is None:
                self.findings["state"].differ(f"{at}: key {raw.key!r} does not belong to a {type(row).__name__}")
            elif before[0] > before[1]:
                self.findings["state"].differ(
                    f"{at}: {(raw.key or b'').decode()} goes back from offset {before[0]} to {before[1]}: a stale row"
                )

    def _keep(self, key: bytes | None, row: object) -> tuple[int, int] | None:
        """Keeps the row as the last of its key; the offsets of the one before and of this one, None for a wrong key."""
        if isinstance(row, AccountState) and key == f"a:{row.account_id}".encode():
            old = self.accounts.get(row.account_id)
            self.accounts[row.account_id] = row
            return (old.source_offset if old else -1), row.source_offset
        if isinstance(row, PartnerState) and key == f"p:{row.partner_id}".encode():
            known = self.partners.get(row.partner_id)
            self.partners[row.partner_id] = row
            return (known.source_offset if known else -1), row.source_offset
        if isinstance(row, PartitionState) and key == META_KEY:
            last = self.meta
            self.meta = row
            return (last.next_offset if last else -1), row.next_offset
        return None

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
        for path, state in model.partner_state.items():
            wanted = PartnerState(path, model.partner_name[path], state, model.partner_offset[path])
            if self.partners.get(path) != wanted:
                self.findings["state"].differ(
                    f"partition {self.partition}: {self.partners.get(path)}, must be {wanted}"
                )
        for path in self.partners.keys() - model.partner_state.keys():
            self.findings["state"].differ(f"partition {self.partition} partner {path}: was never admitted")
        self.findings["state"].count("accounts", len(self.accounts))
        self.findings["state"].count("partners", len(self.partners))
        self._head(counts, sequence, chain)

    def _account(self, model: Recomputation, a: str, row: AccountState) -> None:
        if a not in model.type:
            self.findings["state"].differ(f"partition {self.partition} account {a}: was never opened")
            return
        wanted = AccountState(
            a, model.type[a], model.currency[a], model.limit[a],
            model.debits_blocked[a], model.credits_blocked[a], model.closed[a],
            model.debits_pending[a], model.debits[a], model.credits_pending[a], model.credits[a], model.touched[a],
        )  # fmt: skip
        if row != wanted:
            pairs = [
                f"{f} is {getattr(row, f)}, must be {getattr(wanted, f)}"
                for f in AccountState.__struct_fields__
                if getattr(row, f) != getattr(wanted, f)
            ]
            self.findings["state"].differ(f"partition {self.partition} account {a}: {'; '.join(pairs)}")

    def _head(self, counts: Counts, sequence: int, chain: bytes) -> None:
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
        }  # fmt: skip
        for name, right in wanted.items():
            found = getattr(self.meta, name)
            if found != right:
                text = (found.hex()[:16], right.hex()[:16]) if isinstance(right, bytes) else (found, right)
                f.differ(f"partition {self.partition}: {name} is {text[0]}, must be {text[1]}")
