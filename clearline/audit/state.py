"""Compares `ledger.state`, from which a worker recovers, with the recomputation at the offset that the state names."""

from __future__ import annotations

from dataclasses import dataclass, field

from clearline.audit.journal import Decode
from clearline.audit.recompute import Recomputation
from clearline.audit.verdict import Findings
from clearline.audit.views import STATE, SUBMITTED, Log
from schemas.codec import UndecodableError
from schemas.records import AccountState, HoldState, PartitionState, PartnerState, Record

META_KEY = b"meta"
HOLD_KEY = b"h:"


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
    nothing else says when these lapse.
    """

    partition: int
    findings: Findings
    meta: PartitionState | None = None
    accounts: dict[str, AccountState] = field(default_factory=dict)
    partners: dict[str, PartnerState] = field(default_factory=dict)
    holds: dict[bytes, HoldState] = field(default_factory=dict)
    expiries: dict[bytes, int] = field(default_factory=dict)
    compared: bool = False

    def read(self, log: Log, decode: Decode) -> None:
        """Reads the topic to its end. A row older than an earlier one of its key is a writer that was not fenced."""
        start, end = log.span(STATE, self.partition)
        kept_from, _ = log.span(SUBMITTED, self.partition)
        for raw in log.read(STATE, self.partition, start, end):
            at = f"ledger.state[{self.partition}] offset {raw.offset}"
            if raw.value is None and raw.key is not None and raw.key.startswith(HOLD_KEY):
                self.findings["state"].count("rows")
                self._drop(at, raw.key)
                continue
            try:
                row = decode(raw.value)
            except UndecodableError as e:
                self.findings["state"].differ(f"{at} does not decode: {e}")
                continue
            self.findings["state"].count("rows")
            before = self._keep(raw.key, row)
            if isinstance(row, HoldState) and row.opened_at_offset < kept_from:
                self.expiries[row.hold_id] = row.expires_at
            if before is None:
                self.findings["state"].differ(f"{at}: key {raw.key!r} does not belong to a {type(row).__name__}")
            elif before[0] > before[1]:
                self.findings["state"].differ(
                    f"{at}: {(raw.key or b'').decode()} goes back from offset {before[0]} to {before[1]}: a stale row"
                )

    def _drop(self, at: str, key: bytes) -> None:
        """A hold was closed. Its row may be gone already, by compaction."""
        try:
            self.holds.pop(bytes.fromhex(key[len(HOLD_KEY) :].decode()), None)
        except ValueError:
            self.findings["state"].differ(f"{at}: deletes {key!r}, which is no hold's key")

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
        if isinstance(row, HoldState) and key == HOLD_KEY + row.hold_id.hex().encode():
            open_before = self.holds.get(row.hold_id)
            self.holds[row.hold_id] = row
            return (open_before.source_offset if open_before else -1), row.source_offset
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
        self._holds(model)
        self._backing()
        self.findings["state"].count("accounts", len(self.accounts))
        self.findings["state"].count("partners", len(self.partners))
        self.findings["state"].count("holds", len(self.holds))
        self._head(counts, sequence, chain)

    def _holds(self, model: Recomputation) -> None:
        """Every open hold has its row, and no other hold has one."""
        open_holds = model.holds.by_id
        for hold_id, row in self.holds.items():
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
        for hold_id in open_holds.keys() - self.holds.keys():
            self.findings["state"].differ(f"partition {self.partition} hold {hold_id.hex()}: is open and has no row")

    def _backing(self) -> None:
        """What is pending on an account is what its open holds have left, by the rows alone: no money is stuck."""
        pending: dict[str, list[int]] = {}
        for h in self.holds.values():
            pending.setdefault(h.payer, [0, 0])[0] += h.remaining
            pending.setdefault(h.payee, [0, 0])[1] += h.remaining
        for a, row in self.accounts.items():
            wanted = pending.get(a, [0, 0])
            if [row.debits_pending, row.credits_pending] != wanted:
                self.findings["pending"].differ(
                    f"partition {self.partition} account {a}: {row.debits_pending} and {row.credits_pending} are "
                    f"pending, its open holds have {wanted[0]} and {wanted[1]} left"
                )

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
            self.findings["state"].differ(f"partition {self.partition} account {a}: {_unlike(row, wanted)}")

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


def _unlike(row: Record, wanted: Record) -> str:
    """Which fields of a row are not as they must be."""
    fields = [f for f in row.__struct_fields__ if getattr(row, f) != getattr(wanted, f)]
    return "; ".join(f"{f} is {getattr(row, f)}, must be {getattr(wanted, f)}" for f in fields)
