"""Transactions between partitions, as one of the partitions sees them.

A flight is opened at home by a transaction and elsewhere by a `reserve`. The commands that must be written to other
partitions are part of what is expected; `traffic` looks for them there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clearline.audit.contract import Terms
from clearline.audit.figures import DEBIT_NORMAL, TRANSIT, Leg
from clearline.audit.originals import PendingChange, PostedLeg
from clearline.audit.products import Plan
from clearline.audit.rules import Rules, sums
from schemas.identity import BANK, owner_of, root_of
from schemas.records import Crossing, Posting, Transaction

WAITING, RESERVED, REFUSED = "waiting", "reserved", "refused"
NO_DIGEST = bytes(8)

Opened = tuple[str, str, str, int | None, int]  # account, type, currency, min_available, credit_limit


@dataclass(slots=True)
class Flight:
    """One transaction in flight. Its fields are those of a CrossingState; `answers` by the other partition."""

    transaction_id: bytes
    digest: bytes
    home: bool
    home_partition: int
    asker: str
    asker_key: str
    product: str
    version: int
    operation: str
    value_date: int
    reference: str
    metadata: dict[str, str]
    legs: list[Leg]
    opened: int
    changed: int
    answers: dict[int, str] = field(default_factory=dict)
    reason: str = ""
    detail: dict[str, str] = field(default_factory=dict)

    @property
    def is_refused(self) -> bool:
        """Whether one of the others has refused it."""
        return REFUSED in self.answers.values()

    def step(self, step: str, sender: int, receiver: int, legs: Iterable[Leg] = (), reason: str = "") -> Crossing:
        """The command that this step is, written because of the command that changed the flight last."""
        return Crossing(
            BANK, key_of(step, self.transaction_id, sender, receiver, self.changed), step,
            self.transaction_id, sender, receiver,
            self.asker, self.asker_key, self.product, self.version, self.operation, self.value_date, self.reference,
            self.metadata, tuple(Posting(*leg) for leg in legs), reason,
        )  # fmt: skip


def key_of(step: str, transaction_id: bytes, sender: int, receiver: int, offset: int) -> str:
    """The idempotency key of a step; `offset`: of the command in the sender's partition that caused it."""
    return f"{step}/{transaction_id.hex()}/{sender}/{receiver}/{offset}"


class KeyParts(NamedTuple):
    """What the key of a step says. `offset`: of its cause, in the sender's partition."""

    step: str
    transaction_id: bytes
    sender: int
    receiver: int
    offset: int


def parts_of(key: str) -> KeyParts | None:
    """The parts of a step's key; None for a key that no partition gives."""
    parts = key.split("/")
    try:
        step, name, sender, receiver, offset = parts
        return KeyParts(step, bytes.fromhex(name), int(sender), int(receiver), int(offset))
    except ValueError:
        return None


class Done(NamedTuple):
    """What a command that is no repetition comes to. `decided`: the record is that of this transaction, not of the
    command. `changes`: None where only the state is compared. `value_date`: None for the command's own."""

    outcome: str
    reason: str = ""
    pending: tuple[PendingChange, ...] = ()
    legs: tuple[PostedLeg, ...] = ()
    subject: str = ""
    original_offset: int = -1
    changes: dict[str, str] | None = None
    value_date: int | None = None
    version: int = 0
    opened: tuple[Opened, ...] = ()
    emits: tuple[Crossing, ...] = ()
    decided: Flight | None = None


class Crossings(Rules):
    """The flights of one partition."""

    def __init__(self, terms: Terms, partition: int = 0) -> None:
        super().__init__(terms, partition)
        self.flights: dict[tuple[int, bytes], Flight] = {}  # by home partition and transaction id

    def open_on_use(self, offset: int, legs: Iterable[Leg], opens: dict[str, dict[str, Any]]) -> tuple[Opened, ...]:
        """Opens the accounts of the legs that are not there yet, in their order."""
        out: list[Opened] = []
        for account, _, _, currency in legs:
            if account in self.type:
                continue
            how = opens.get(account, {"type": "asset"})
            least, credit = how.get("min_available"), how.get("credit_limit", 0)
            self.new_account(offset, account, how["type"], currency, least, credit)
            out.append((account, how["type"], currency, least, credit))
        return tuple(out)

    def first_under(self, cid: bytes) -> tuple[bytes, int] | None:
        """The key of a transaction in flight stays bound, too."""
        f = self.flights.get((self.partition, cid))
        return super().first_under(cid) or ((f.digest, f.opened) if f is not None else None)

    # ---- at home -----------------------------------------------------------------------------------------------------

    def away_legs(self, plan: Plan) -> dict[int, list[Leg]]:
        """The legs of other partitions, by partition rising; empty when the transaction does not cross."""
        out: dict[int, list[Leg]] = {}
        local = self.local_legs(plan)
        if len(local) == len(plan.legs):
            return {}
        for leg in plan.legs:
            root = root_of(owner_of(leg[0]))
            if leg[1] == "credit" and self.is_away(root):
                out.setdefault(self.terms.place(root), []).append(leg)
        return dict(sorted(out.items()))

    def depart(
        self, offset: int, cid: bytes, digest: bytes, t: Transaction, plan: Plan, away: dict[int, list[Leg]]
    ) -> Done:
        """Sets everything aside at home and asks the others."""
        legs = self.local_legs(plan)
        for there in away.values():
            legs += [(TRANSIT + c, "credit", n, c) for c, n in by_currency(there).items()]
        value_date, late = self.booked_on(t.value_date)
        opened = self.open_on_use(offset, legs, plan.opens)
        flight = self.flights[self.partition, cid] = Flight(
            cid, digest, True, self.partition, t.partner_id, t.idempotency_key, t.product, plan.number, t.operation,
            value_date, t.reference, t.metadata, legs, offset, offset, dict.fromkeys(away, WAITING),
        )  # fmt: skip
        pending = tuple(self.set_aside(offset, cid, leg) for leg in legs)
        changes = {"crossing": ",".join(map(str, away)), **late}
        emits = tuple(flight.step("reserve", self.partition, p, there) for p, there in away.items())
        return Done("applied", "", pending, changes=changes, value_date=value_date, version=plan.number,
                    opened=opened, emits=emits)  # fmt: skip

    def answered(self, offset: int, c: Crossing) -> Done:
        """One of the others has reserved or refused."""
        f = self.flights.get((self.partition, c.transaction_id))
        if f is None or f.answers.get(c.from_partition) != WAITING:
            return Done("rejected", "crossing_unknown")
        f.changed = offset
        refused_before = f.is_refused
        f.answers[c.from_partition] = c.step
        done = self._plain(c)
        if c.step == REFUSED and not refused_before:
            f.reason, f.detail = c.reason, c.detail
            emits = [f.step("void", self.partition, p) for p, a in f.answers.items() if a == RESERVED]
            done = Done("rejected", c.reason, self.release(offset, f), changes={}, emits=tuple(emits), decided=f)
        elif c.step == RESERVED and refused_before:
            done = done._replace(emits=(f.step("void", self.partition, c.from_partition),))
        elif set(f.answers.values()) == {RESERVED}:
            pending = self.release(offset, f)
            f.value_date, late = self.booked_on(f.value_date)
            emits = [f.step("commit", self.partition, p) for p in f.answers]
            done = Done("settled", "", pending, self.post(offset, f.legs), changes=late, emits=tuple(emits), decided=f)
        if done.outcome == "settled" or (f.is_refused and WAITING not in f.answers.values()):
            del self.flights[self.partition, c.transaction_id]
        return done

    def release(self, offset: int, f: Flight) -> tuple[PendingChange, ...]:
        """Gives up everything that the flight set aside here."""
        return tuple(self.set_aside(offset, f.transaction_id, leg, -1) for leg in f.legs)

    @staticmethod
    def _plain(c: Crossing) -> Done:
        """What is applied and moves nothing."""
        return Done("applied", subject=c.asker, changes=said_of(c), value_date=c.value_date, version=c.product_version)

    # ---- in the other partition --------------------------------------------------------------------------------------

    def reserve(self, offset: int, c: Crossing) -> Done:
        """Another partition asks whether it may credit accounts here."""
        if (c.from_partition, c.transaction_id) in self.flights:
            return Done("rejected", "crossing_unknown")
        legs = [(p.account_id, p.side, p.amount, p.currency) for p in c.legs]
        f = Flight(
            c.transaction_id, NO_DIGEST, False, c.from_partition, c.asker, c.asker_key, c.product, c.product_version,
            c.operation, c.value_date, c.reference, c.metadata, legs, offset, offset,
        )  # fmt: skip
        why = self.stopped(BANK, c.product, "transfer") or self._unacceptable(c.asker, legs)
        if why:
            return Done("rejected", why, emits=(f.step(REFUSED, self.partition, c.from_partition, (), why),))
        f.legs = [(TRANSIT + cur, "debit", n, cur) for cur, n in by_currency(legs).items()] + legs
        opened = self.open_on_use(offset, f.legs, {})
        pending = tuple(self.set_aside(offset, c.transaction_id, leg) for leg in f.legs)
        self.flights[c.from_partition, c.transaction_id] = f
        emits = (f.step(RESERVED, self.partition, c.from_partition),)
        return self._plain(c)._replace(pending=pending, opened=opened, emits=emits)

    def _unacceptable(self, asker: str, legs: list[Leg]) -> str:
        """The account rules of credits from elsewhere, over all legs."""
        if any(a not in self.type for a, _, _, _ in legs):
            return "account_unknown"
        if any(self.unpaid(asker, a, "paid") for a, _, _, _ in legs):
            return "owner_state"
        if any(self.kept_by(BANK, a) for a, _, _, _ in legs):
            return "owner_frozen"
        why = self.unfit(legs)
        if why:
            return why
        for a, n in sums(legs, "credit").items():
            least = self.floor(a)
            if self.type[a] in DEBIT_NORMAL and least is not None and self.available(a) - n < least:
                return "insufficient_funds"
        debits = {TRANSIT + c: n for c, n in by_currency(legs).items()}
        return "counter_overflow" if self.overflows(debits, sums(legs, "credit"), pending=True) else ""

    def concluded(self, offset: int, c: Crossing) -> Done:
        """Home has decided."""
        f = self.flights.pop((c.from_partition, c.transaction_id), None)
        if f is None:
            return Done("rejected", "crossing_unknown")
        done = self._plain(c)._replace(pending=self.release(offset, f))
        if c.step == "void":
            return done
        value_date, late = self.booked_on(c.value_date)
        posted = self.post(offset, f.legs)
        return done._replace(legs=posted, value_date=value_date, changes={**(done.changes or {}), **late})

    def crossing(self, offset: int, c: Crossing) -> Done:
        """What a step that was written to this partition comes to."""
        if c.step == "reserve":
            done = self.reserve(offset, c)
        else:
            done = self.answered(offset, c) if c.step in (RESERVED, REFUSED) else self.concluded(offset, c)
        if done.outcome == "rejected" and done.decided is None:
            return done._replace(subject=c.asker, changes=said_of(c))
        return done


def said_of(c: Crossing) -> dict[str, str]:
    """What the record of a step says, whatever its outcome."""
    return {"step": c.step, "transaction": c.transaction_id.hex(), "key": c.asker_key}


def by_currency(legs: Iterable[Leg]) -> dict[str, int]:
    """Minor units by currency, in the order in which currencies first appear."""
    out: dict[str, int] = {}
    for _, _, amount, currency in legs:
        out[currency] = out.get(currency, 0) + amount
    return out
