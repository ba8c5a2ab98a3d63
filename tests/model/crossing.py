"""A transaction between partitions: reserve, reserved or refused, commit or void; from docs/operations.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from schemas.identity import command_id, partition_of
from schemas.records import Crossing, Posting
from tests.model import freezes, partners, transactions
from tests.model.state import State, version_of
from tests.model.transactions import Case
from tests.model.values import TRANSIT, Against, Answer, Flight, Key, Known, Leg, Other, against, owner


def start(m: State, case: Case, legs: Sequence[Leg], offset: int, opened: tuple[Any, ...]) -> Answer:
    """Sets the local legs and the transit legs aside, and asks the other partitions."""
    t = case.t
    key = (t.partner_id, t.idempotency_key)
    there = transactions.sums_away(m, case, list(legs))
    ours = [leg.posting() for leg in legs if not transactions.away(m, case, leg)]
    transit = [Posting(TRANSIT + currency, "credit", amount, currency) for _, currency, amount in there]
    opened += _open_transit(m, transit)
    to = sorted({p for p, _, _ in there})
    value_date, late = m.booked_on(t.value_date)
    asked = Crossing(
        "bank", "", "reserve", command_id(*key), m.partition, -1, *key, t.product, version_of(t, case.product),
        t.operation, value_date, t.reference, t.metadata,
    )  # fmt: skip
    pending = _change_all(m, key, [*ours, *transit], 1)
    parts = tuple((p, "waiting") for p in to)
    m.flights[m.partition, asked.transaction_id] = Flight(
        asked.transaction_id, True, key, (*ours, *transit), parts, offset, asked, offset
    )
    m.others[key] = Other(offset)
    away = {p: tuple(leg.posting() for leg in legs if _partition(m, case, leg) == p) for p in to}
    sent = tuple(_send(m, asked, "reserve", p, offset, legs=away[p]) for p in to)
    changes = {"crossing": ",".join(map(str, to))} | late
    return Answer(
        "applied", pending=pending, opened=opened, changes=changes, value_date=value_date,
        version=asked.product_version, sent=sent,
    )  # fmt: skip


def _partition(m: State, case: Case, leg: Leg) -> int | None:
    return partition_of(owner(leg.account), m.partitions) if transactions.away(m, case, leg) else None


def _send(m: State, asked: Crossing, step: str, to: int, offset: int, **other: Any) -> Crossing:
    key = f"{step}/{asked.transaction_id.hex()}/{m.partition}/{to}/{offset}"
    return msgspec.structs.replace(
        asked, idempotency_key=key, step=step, from_partition=m.partition, to_partition=to, **{"legs": (), **other}
    )


def _open_transit(m: State, legs: Sequence[Posting]) -> tuple[Any, ...]:
    new = {leg.account_id: leg.currency for leg in legs if leg.account_id not in m.accounts}
    return tuple(m.open(name, Known("bank", "asset", currency, None)) for name, currency in new.items())


def _change_all(m: State, key: Key, legs: Sequence[Posting], sign: int) -> tuple[Any, ...]:
    return tuple(m.set_aside(key, leg.account_id, leg.side, sign * leg.amount, leg.currency) for leg in legs)


def _post_all(m: State, legs: Sequence[Posting]) -> tuple[Any, ...]:
    return tuple(m.post(leg.account_id, leg.side, leg.amount, leg.currency) for leg in legs)


def settle(m: State, c: Crossing, offset: int) -> Answer:
    """What becomes of one step."""
    if c.partner_id != "bank":
        return Answer("rejected", "not_permitted")
    answer = {
        "reserve": _reserve, "reserved": _answered, "refused": _answered, "commit": _decided, "void": _decided,
    }[c.step](m, c, offset)  # fmt: skip
    if answer.speaks_for is not None:
        return answer
    changes = {"step": c.step, "transaction": c.transaction_id.hex(), "key": c.asker_key} | (answer.changes or {})
    value_date = c.value_date if answer.value_date is None else answer.value_date
    return answer._replace(changes=changes, value_date=value_date, version=c.product_version, subject=c.asker)


UNKNOWN = Answer("rejected", "crossing_unknown")


def _reserve(m: State, c: Crossing, offset: int) -> Answer:
    if (c.from_partition, c.transaction_id) in m.flights:
        return UNKNOWN
    reason, detail = next(_against_credits(m, c), ("", {}))
    if reason:
        refused = _send(m, c, "refused", c.from_partition, offset, reason=reason, detail=detail)
        return Answer("rejected", reason, detail=detail, sent=(refused,))
    sums: dict[str, int] = {}
    for leg in c.legs:
        sums[leg.currency] = sums.get(leg.currency, 0) + leg.amount
    transit = [Posting(TRANSIT + currency, "debit", amount, currency) for currency, amount in sums.items()]
    legs, key = (*transit, *c.legs), (c.asker, c.asker_key)
    opened = _open_transit(m, transit)
    pending = _change_all(m, key, legs, 1)
    flight = Flight(c.transaction_id, False, key, legs, (), offset, c, offset)
    m.flights[c.from_partition, c.transaction_id] = flight
    return Answer("applied", pending=pending, opened=opened, sent=(_send(m, c, "reserved", c.from_partition, offset),))


def _against_credits(m: State, c: Crossing) -> Iterator[Against]:
    if ("world", "world") in m.freezes:
        yield against("world_frozen")
    yield from freezes.against_product(m, c.product)
    if any(leg.account_id not in m.accounts for leg in c.legs):
        yield against("account_unknown")
        return
    legs = [Leg(leg.account_id, leg.side, leg.amount, leg.currency) for leg in c.legs]
    known = [(leg, m.accounts[leg.account]) for leg in legs]
    for leg, a in known:
        if a.owner not in (c.asker, "bank"):
            name = partners.not_permitting(m.partners, a.owner, "paid")
            if name:
                yield against("owner_state", account=leg.account, partner=name, state=m.partners[name])
    yield from freezes.against_legs(m, c.asker, legs)
    if any(a.closed for _, a in known):
        yield against("account_closed")
    if any(a.frozen for _, a in known):
        yield against("account_frozen")
    if any(a.currency != leg.currency for leg, a in known):
        yield against("account_currency")
    if any(a.no_credits for _, a in known):
        yield against("credits_blocked")
    yield from transactions.funds({leg.account: a for leg, a in known}, legs, aside=True)


def _answered(m: State, c: Crossing, offset: int) -> Answer:
    place = (m.partition, c.transaction_id)
    flight = m.flights.get(place)
    if flight is None or not flight.home or dict(flight.parts).get(c.from_partition) != "waiting":
        return UNKNOWN
    parts = tuple((p, c.step if p == c.from_partition else said) for p, said in flight.parts)
    waiting = [p for p, said in parts if said == "waiting"]
    flight = flight._replace(parts=parts, changed=offset)
    if flight.reason:  # it was refused before
        answer = Answer("applied")
        if c.step == "reserved":
            answer = answer._replace(sent=(_send(m, flight.asked, "void", c.from_partition, offset),))
    elif c.step == "refused":
        flight = flight._replace(reason=c.reason, detail=tuple(c.detail.items()))
        told = [p for p, said in parts if said == "reserved"]
        answer = _outcome(m, flight, "rejected")._replace(
            reason=c.reason, detail=dict(c.detail), value_date=flight.asked.value_date, changes={},
            pending=_change_all(m, flight.key, flight.legs, -1),
            sent=tuple(_send(m, flight.asked, "void", p, offset) for p in told),
        )  # fmt: skip
    elif not waiting:
        return _committed(m, flight, offset)
    else:
        answer = Answer("applied")
    if waiting:
        m.flights[place] = flight
    else:
        del m.flights[place]
    return answer


def _outcome(m: State, flight: Flight, outcome: str) -> Answer:
    return Answer(
        outcome, first_offset=flight.offset, speaks_for=flight.key, version=flight.asked.product_version, subject=""
    )


def _committed(m: State, flight: Flight, offset: int) -> Answer:
    del m.flights[m.partition, flight.id]
    value_date, late = m.booked_on(flight.asked.value_date)
    asked = msgspec.structs.replace(flight.asked, value_date=value_date)
    pending = _change_all(m, flight.key, flight.legs, -1)
    return _outcome(m, flight, "settled")._replace(
        pending=pending, postings=_post_all(m, flight.legs), value_date=value_date, changes=late,
        sent=tuple(_send(m, asked, "commit", p, offset) for p, _ in flight.parts),
    )  # fmt: skip


def _decided(m: State, c: Crossing, offset: int) -> Answer:
    flight = m.flights.get((c.from_partition, c.transaction_id))
    if flight is None or flight.home:
        return UNKNOWN
    del m.flights[c.from_partition, c.transaction_id]
    pending = _change_all(m, flight.key, flight.legs, -1)
    if c.step == "void":
        return Answer("applied", pending=pending)
    value_date, late = m.booked_on(c.value_date)
    return Answer("applied", pending=pending, postings=_post_all(m, flight.legs), value_date=value_date, changes=late)
