"""Control commands: what stands against each, in the order of the pages, and what it changes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    CloseDay,
    OpenAccount,
    OperatorAct,
    PublishProduct,
    SealDay,
    SetAccountLimit,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Tick,
)
from tests.model import calendars, documents, freezes, limits, partners
from tests.model.state import State
from tests.model.values import (
    DAY_MAX,
    EXPONENTS,
    LOCAL,
    LONG_MAX,
    PARTNER,
    TRANSIT,
    TYPES,
    Against,
    Known,
    Product,
    against,
    is_below,
    owner,
    root,
)

Change = tuple[str, dict[str, str]]  # subject, and what the journal's `changes` name at least


def stands_against(m: State, c: Any) -> Iterator[Against]:
    """Every reason against it, first the one that is given. Later ones may be nonsense."""
    match c:
        case OpenAccount():
            yield from _open(m, c)
        case BlockAccount() | SetAccountLimit() | CloseAccount():
            yield from _account(m, c)
        case SetLimit():
            yield from _limit(m, c)
        case _:
            if c.partner_id != "bank":
                yield against("not_permitted")
            yield from _BANKS[type(c)](m, c)


def _money_limits(c: OpenAccount | SetAccountLimit) -> Iterator[Against]:
    if c.min_available is not None and abs(c.min_available) > LONG_MAX:
        yield against("amount_too_large")
    if c.credit_limit < 0:
        yield against("field_invalid", field="credit_limit")
    if c.credit_limit > LONG_MAX:
        yield against("amount_too_large", field="credit_limit")
    if c.credit_limit != 0 and c.min_available is None:
        yield against("field_invalid", field="credit_limit")


def _open(m: State, c: OpenAccount) -> Iterator[Against]:
    yield from partners.stands_against(m.partners, c.partner_id, "opens")
    yield from freezes.against_command(m, c.partner_id)
    who = owner(c.account_id)
    if c.partner_id != "bank":
        if not is_below(who, c.partner_id):
            yield against("not_permitted")
        if c.type in ("asset", "expense"):
            yield against("not_permitted", field="type")
        if c.min_available is None or c.min_available < 0:
            yield against("not_permitted", field="min_available")
        if c.credit_limit != 0:
            yield against("not_permitted", field="credit_limit")
    if not re.fullmatch(f"{PARTNER}:{LOCAL}", c.account_id) or c.type not in TYPES:
        yield against("field_invalid")
    if c.currency not in EXPONENTS:
        yield against("currency_unknown")
    yield from _money_limits(c)
    yield from partners.stands_against(m.partners, who, "opens")
    if freezes.first_frozen(m, who):
        yield against("partner_frozen", partner=freezes.first_frozen(m, who), field="account_id")
    if c.account_id.startswith(TRANSIT):
        yield against("account_not_owned")
    if c.account_id in m.accounts:
        yield against("account_exists")


def _account(m: State, c: BlockAccount | SetAccountLimit | CloseAccount) -> Iterator[Against]:
    yield from partners.stands_against(m.partners, c.partner_id, "manages")
    yield from freezes.against_command(m, c.partner_id)
    by_bank = c.partner_id == "bank"
    if not by_bank and (isinstance(c, SetAccountLimit) or not is_below(owner(c.account_id), c.partner_id)):
        yield against("not_permitted")
    if isinstance(c, SetAccountLimit):
        yield from _money_limits(c)
    if c.account_id.startswith(TRANSIT):
        yield against("account_not_owned")
    a = m.accounts.get(c.account_id)
    if a is None:
        yield against("account_unknown")
        return
    if a.closed:
        yield against("account_closed")
    if isinstance(c, BlockAccount):
        lifts = (
            (a.no_debits and not c.block_debits)
            or (a.no_credits and not c.block_credits)
            or (a.frozen and not c.freeze)
        )
        if lifts and not by_bank:
            yield against("not_permitted")
    if isinstance(c, CloseAccount) and not a.empty():
        yield against("account_not_empty")


def _admit(m: State, c: AdmitPartner) -> Iterator[Against]:
    if not re.fullmatch(PARTNER, c.subject_id) or root(c.subject_id) == "bank":
        yield against("field_invalid")
    if c.state not in ("applied", "live"):
        yield against("state_unknown")
    if c.subject_id in m.partners:
        yield against("partner_exists")
    parent = c.subject_id.rpartition("/")[0]
    if parent and m.partners.get(parent, "exited") == "exited":
        yield against("parent_unknown")


def _state(m: State, c: SetPartnerState) -> Iterator[Against]:
    if c.requested_by == "" or c.note == "":
        yield against("field_invalid")
    if c.approved_by == "" and c.state == "live" and m.partners.get(c.subject_id) == "sandbox":
        yield against("field_invalid", field="approved_by")
    if c.approved_by == c.requested_by:
        yield against("field_invalid", field="approved_by")
    if c.state not in partners.STATES:
        yield against("state_unknown")
    if c.subject_id not in m.partners:
        yield against("partner_unknown")
        return
    if c.state not in partners.STATES[m.partners[c.subject_id]].becomes:
        yield against("state_transition")
    if c.state == "exited":
        for name, a in sorted(m.accounts.items()):
            if is_below(a.owner, c.subject_id) and not a.empty():
                yield against("partner_not_empty", account=name)
        for name, state in sorted(m.partners.items()):
            if name != c.subject_id and is_below(name, c.subject_id) and state != "exited":
                yield against("partner_not_empty", partner=name)


def _day_wrong(day: int) -> bool:
    return day < 0 or day > DAY_MAX


def _rise(values: list[int]) -> bool:
    return values == sorted(set(values))


def _calendar(m: State, c: SetCalendar) -> Iterator[Against]:
    if c.subject_id != "bank" and c.subject_id not in m.partners:
        yield against("partner_unknown")
    days = [d.day for d in c.closed_days]
    if (
        not 1 <= len(c.zone) <= 64 or not c.zone.isprintable()
        or len(c.offsets) > 500 or not _rise([o.from_ms for o in c.offsets])
        or any(abs(o.minutes) > 900 for o in c.offsets)
        or not 0 <= c.closed_weekdays <= 126
        or len(days) > 1000 or not _rise(days) or any(map(_day_wrong, days))
    ):  # fmt: skip
        yield against("field_invalid")


def _day(m: State, c: CloseDay) -> Iterator[Against]:
    if _day_wrong(c.day):
        yield against("field_invalid")
    if c.day <= m.closed_through:
        yield against("day_closed")
    if c.day > calendars.local_day(m.settlement_calendar(), m.now):
        yield against("day_ahead")


def _sealed_text(c: SealDay) -> str:
    """What is hashed: compact JSON, the keys in the order of the page."""
    cut = [{"partition": p.partition, "sequence": p.sequence, "chain": p.chain} for p in c.cut]
    totals = [
        {
            "partition": t.partition,
            "currency": t.currency,
            "debits": t.debits,
            "credits": t.credits,
            "postings": t.postings,
        }
        for t in c.totals
    ]
    return json.dumps({"day": calendars.iso(c.day), "cut": cut, "totals": totals}, separators=(",", ":"))


def _closing_sequence(m: State, day: int) -> int | None:
    return next((m.closes[d] for d in sorted(m.closes) if d >= day), None)


def _seal(m: State, c: SealDay) -> Iterator[Against]:
    if _day_wrong(c.day):
        yield against("field_invalid", field="day")
        return
    partitions = [p.partition for p in c.cut]
    if (
        not 1 <= len(c.cut) <= 1000 or not _rise(partitions) or partitions[0] < 0
        or any(p.sequence < 1 or not re.fullmatch("[0-9a-f]{64}", p.chain) for p in c.cut)
    ):  # fmt: skip
        yield against("field_invalid", field="cut")
    named = [(t.partition, t.currency) for t in c.totals]
    if (
        len(named) > 100_000 or named != sorted(set(named)) or not {p for p, _ in named} <= set(partitions)
        or any(
            t.currency not in EXPONENTS or not re.fullmatch("[1-9][0-9]{0,37}", t.debits)
            or t.credits != t.debits or t.postings < 2
            for t in c.totals
        )
    ):  # fmt: skip
        yield against("field_invalid", field="totals")
    if hashlib.sha256(_sealed_text(c).encode()).hexdigest() != c.hash:
        yield against("field_invalid", field="hash")
    sequence = _closing_sequence(m, c.day)
    if sequence is None:
        yield against("day_open")
    if c.day in m.sealed:
        yield against("day_sealed", hash=m.sealed[c.day])
    if (m.partition, sequence) not in {(p.partition, p.sequence) for p in c.cut}:
        yield against("field_invalid", field="cut")


def _tick(m: State, c: Tick) -> Iterator[Against]:
    yield from ()  # nothing can


def _limit(m: State, c: SetLimit) -> Iterator[Against]:
    yield from partners.stands_against(m.partners, c.partner_id, "manages")
    yield from freezes.against_command(m, c.partner_id)
    if c.partner_id != "bank":
        below = c.level == "partner" and c.subject_id != c.partner_id and is_below(c.subject_id, c.partner_id)
        own = c.level == "account" and is_below(owner(c.subject_id), c.partner_id)
        if not below and not own:
            yield against("not_permitted")
    if c.level not in ("partner", "account", "product") or limits.wrong(c.limits):
        yield against("field_invalid")
    if limits.unknown_currency(c.limits):
        yield against("currency_unknown")
    if limits.too_large(c.limits):
        yield against("amount_too_large")
    there: dict[str, set[str]] = {"partner": set(m.partners), "account": set(m.accounts), "product": set(m.shelf)}
    if c.subject_id not in there[c.level]:
        yield against(f"{c.level}_unknown")
    before = m.limits.get((c.level, c.subject_id), ())
    if c.partner_id != "bank" and not all(limits.still_there(one, c.limits) for one in before):
        yield against("not_permitted", field="limits")
    currencies = {one.currency for one in before} - {""}
    if c.partner_id != "bank" and currencies and not {one.currency for one in c.limits} <= currencies | {""}:
        yield against("not_permitted", field="limits")


def _publish(m: State, c: PublishProduct) -> Iterator[Against]:
    document = _read(c.document)
    if (
        not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", c.product) or not 1 <= c.version <= 2**31 - 1
        or _day_wrong(c.effective_from) or len(c.document) > 100_000 or document is None
        or (document.get("product"), document.get("version")) != (c.product, c.version)
    ):  # fmt: skip
        yield against("field_invalid")
        return
    if any(p.version >= c.version for p in m.shelf.get(c.product, ())):
        yield against("product_version")
    found = documents.verdict(document)
    if found is not None:
        yield against(found[0])


_BANKS: dict[Any, Any] = {
    AdmitPartner: _admit, SetPartnerState: _state, SetCalendar: _calendar, CloseDay: _day, SealDay: _seal, Tick: _tick,
    PublishProduct: _publish, SetFreeze: freezes.against_set_freeze, OperatorAct: freezes.against_act,
}  # fmt: skip


def _read(text: str) -> dict[str, Any] | None:
    """The object; None when it is none, is no JSON by RFC 8259, or has more than 32 objects and lists in one another."""
    try:
        if _deepest(text) > 32:
            return None
        out: Any = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_number)
        json.dumps(out, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except ValueError:
        return None
    found: dict[str, Any] | None = out if isinstance(out, dict) else None
    return found


def _number(text: str) -> int | float:
    if not math.isfinite(float(text)):
        raise ValueError("no number, or none that a double comes near")
    return float(text) if set(text) & set(".eE") else int(text)


def _deepest(text: str) -> int:
    """How many objects and lists are open at most, brackets in strings not counted."""
    most, now, in_string, escaped = 0, 0, False, False
    for c in text:
        if in_string:
            in_string = escaped or c != '"'
            escaped = c == "\\" and not escaped
        elif c == '"':
            in_string = True
        else:
            now += (c in "[{") - (c in "]}")
            most = max(most, now)
    return most


def apply(m: State, c: Any) -> Change:
    """Changes what the command changes. Nothing stands against it any more."""
    said = {k: v for k in ("requested_by", "note", "approved_by") if (v := getattr(c, k, ""))}
    subject, changes = _apply(m, c)
    return subject, {k: _text(v) for k, v in changes.items()} | said


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _apply(m: State, c: Any) -> tuple[str, dict[str, object]]:
    match c:
        case OpenAccount():
            m.open(c.account_id, Known(owner(c.account_id), c.type, c.currency, c.min_available, credit=c.credit_limit))
            changes: dict[str, object] = {"type": c.type, "currency": c.currency}
            return c.account_id, changes | {"min_available": c.min_available, "credit_limit": c.credit_limit}
        case BlockAccount():
            m.accounts[c.account_id] = m.accounts[c.account_id]._replace(
                no_debits=c.block_debits, no_credits=c.block_credits, frozen=c.freeze
            )
            if not c.freeze:
                m.freezes.pop(("account", c.account_id), None)
            changes = {"block_debits": c.block_debits, "block_credits": c.block_credits, "freeze": c.freeze}
            return c.account_id, changes
        case SetAccountLimit():
            m.accounts[c.account_id] = m.accounts[c.account_id]._replace(limit=c.min_available, credit=c.credit_limit)
            return c.account_id, {"min_available": c.min_available, "credit_limit": c.credit_limit}
        case CloseAccount():
            m.accounts[c.account_id] = m.accounts[c.account_id]._replace(closed=True)
            return c.account_id, {"closed": True}
        case AdmitPartner() | SetPartnerState():
            m.partners[c.subject_id] = c.state
            return c.subject_id, {"state": c.state}
        case SetCalendar():
            m.calendars[c.subject_id] = c
            changes = {"zone": c.zone, "offsets": len(c.offsets), "closed_weekdays": c.closed_weekdays}
            return c.subject_id, changes | {"closed_days": len(c.closed_days)}
        case CloseDay():
            m.closed_through = c.day
            m.closes[c.day] = sum(m.counts.values()) + 1
            next_day = calendars.next_day(m.settlement_calendar(), c.day)
            return calendars.iso(c.day), {"day": calendars.iso(c.day), "next_day": calendars.iso(next_day)}
        case SealDay():
            m.closes[c.day] = _closing_sequence(m, c.day) or 0
            m.sealed[c.day] = c.hash
            cut = ",".join(f"{p.partition}:{p.sequence}" for p in c.cut)
            changes = {"day": calendars.iso(c.day), "hash": c.hash, "cut": cut, "figures": _sealed_text(c)}
            return calendars.iso(c.day), changes
        case SetLimit():
            return _set_limits(m, c)
        case SetFreeze():
            freezes.apply(m, c)
            return c.subject_id, {"level": c.level, "frozen": c.frozen}
        case OperatorAct():
            return c.subject_id, {"act": c.act, "digest": c.digest}
        case PublishProduct():
            product = Product(c.version, c.effective_from, json.loads(c.document), c.document)
            m.shelf[c.product] = (*m.shelf.get(c.product, ()), product)
            since = calendars.iso(c.effective_from) if c.effective_from else ""
            digest = hashlib.sha256(c.document.encode()).hexdigest()
            return c.product, {"version": c.version, "effective_from": since, "digest": digest}
    return "", {}


def _set_limits(m: State, c: SetLimit) -> tuple[str, dict[str, object]]:
    subject = (c.level, c.subject_id)
    if c.limits:
        m.limits[subject] = c.limits
    else:
        m.limits.pop(subject, None)
    if c.level != "product":  # its usage stays until it is counted next
        rows = limits.kept(m.usage.pop(subject, ()), c.limits)
        if rows:
            m.usage[subject] = rows
    return c.subject_id, {"level": c.level, "limits": len(c.limits)}
