"""Each report of the catalogue once more, in plain Python, from the journal's values as a topic holds them.

Nothing here knows ClickHouse, the views or the ledger: only the contract of a journal record. What a report must say is
written down as docs/finance.md says it, with loops and sums, in the columns' order of the catalogue. Of `day`, the
columns `calls`, `p50_us`, `p99_us` and `max_us` have no source in the journal: they are 0 here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from schemas.records import JournalRecord, PostedLeg

EPOCH = date(1970, 1, 1)
DAY_MS = 86_400_000
Row = tuple[Any, ...]
Asked = Mapping[str, str]


def moment(ms: int) -> datetime:
    """Of milliseconds UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


@dataclass(frozen=True)
class Held:
    """The records of a cut: up to a sequence in each partition, none booked after `known_ms`.

    `last_day`: to which the age of holds counts, days since 1970-01-01.
    """

    records: list[tuple[int, int, JournalRecord]]  # partition, journal offset
    last_day: int

    def legs(self, asked: Asked, *, earlier: bool = False) -> Iterator[tuple[date, int, int, JournalRecord, PostedLeg]]:
        """Postings of the period with day, partition and line; with `earlier`, those of the days before it, too."""
        since, until = (date.fromisoformat(asked[name]) for name in ("since", "until"))
        for partition, _, r in self.records:
            day = day_of(r, asked["on"])
            if day <= until and (earlier or day >= since):
                for line, p in enumerate(r.postings):
                    yield day, partition, line, r, p

    def opened(self) -> dict[str, tuple[str, str]]:
        """Type and currency of the accounts that are there, whether by a command or on first use."""
        out: dict[str, tuple[str, str]] = {}
        for _, _, r in self.records:
            if r.command == "OpenAccount" and r.outcome == "applied":
                out[r.subject_id] = (r.changes["type"], r.changes["currency"])
            for o in r.opened:
                out[o.account_id] = (o.type, o.currency)
        return out


def held(journal: Iterable[tuple[int, int, JournalRecord]], sequences: Mapping[int, int], known_ms: int | None) -> Held:
    """The records of a journal that a cut has. `known_ms`: milliseconds UTC, None for no such moment."""
    upto = [x for x in journal if x[2].sequence <= sequences.get(x[0], 0)]
    last = max((x[2].booked_at // DAY_MS for x in upto), default=0)
    if known_ms is None:
        return Held(upto, last)
    return Held([x for x in upto if x[2].booked_at <= known_ms], min(last, known_ms // DAY_MS))


def day_of(r: JournalRecord, on: str) -> date:
    """The day on which it counts, or on which it was booked (UTC)."""
    return EPOCH + timedelta(days=r.value_date if on == "value" else r.booked_at // DAY_MS)


def below(partner: str, above: str) -> bool:
    """Whether it is that partner or one of its subtree; all are below nobody."""
    return not above or partner.split("/")[: above.count("/") + 1] == above.split("/")


def owner(account: str) -> str:
    return account.split(":")[0]


def _change(p: PostedLeg) -> int:
    return p.amount if p.side == "debit" else -p.amount


def _sums(legs: Iterable[tuple[Row, PostedLeg]]) -> dict[Row, tuple[int, int, int]]:
    """Debits, credits and number by key."""
    out: dict[Row, tuple[int, int, int]] = {}
    for key, p in legs:
        debits, credits_, n = out.get(key, (0, 0, 0))
        more = (p.amount, 0) if p.side == "debit" else (0, p.amount)
        out[key] = (debits + more[0], credits_ + more[1], n + 1)
    return out


def trial_balance(h: Held, asked: Asked) -> list[Row]:
    since, types = date.fromisoformat(asked["since"]), h.opened()
    before: Counter[Row] = Counter()
    now: list[tuple[Row, PostedLeg]] = []
    for day, _, _, _, p in h.legs(asked, earlier=True):
        kind = types.get(p.account_id, ("", ""))[0]
        key = {"currency": p.currency, "type": kind, "account": p.account_id}[asked["by"]], p.currency
        before[key] += _change(p) if day < since else 0
        if day >= since:
            now.append((key, p))
    sums, out = _sums(now), []
    for key in sorted(before):
        d, c, n = sums.get(key, (0, 0, 0))
        out.append((*key, before[key], d, c, d - c, before[key] + d - c, n))
    return out


def statement(h: Held, asked: Asked) -> list[Row]:
    account, since = asked["account"], date.fromisoformat(asked["since"])
    if account not in h.opened():
        return []
    kind, currency = h.opened()[account]
    sign = 1 if kind in ("asset", "expense") else -1
    own = sorted(
        (day, r.booked_at, partition, r.sequence, line)
        for day, partition, line, r, p in h.legs(asked, earlier=True)
        if p.account_id == account
    )
    records = {(partition, r.sequence): (offset, r) for partition, offset, r in h.records}
    balance, lines, sums = 0, [], [0, 0]
    opening = 0
    for day, booked_at, partition, sequence, line in own:
        offset, r = records[partition, sequence]
        p = r.postings[line]
        balance += sign * _change(p)
        if day < since:
            opening = balance
            continue
        moved = (p.amount, 0) if p.side == "debit" else (0, p.amount)
        sums = [sums[0] + moved[0], sums[1] + moved[1]]
        lines.append((
            "line", EPOCH + timedelta(days=r.value_date), moment(booked_at), r.product, r.operation, r.reference,
            r.partner_id, *moved, balance, currency, 1, partition, sequence, line, offset,
        ))  # fmt: skip
    first = ("opening", None, None, "", "", "", "", 0, 0, opening, currency, 0, None, None, None, None)
    last = ("closing", None, None, "", "", "", "", *sums, balance, currency, len(lines), None, None, None, None)
    return [first, *lines[: int(asked["lines_max"])], last]


def balances(h: Held, asked: Asked) -> list[Row]:
    sums = _sums(((p.account_id,), p) for _, _, _, _, p in h.legs({"since": "1970-01-01", **asked}))
    out = []
    for account, (kind, currency) in sorted(h.opened().items()):
        if below(owner(account), asked["partner"]) and asked["account"] in ("", account):
            d, c, n = sums.get((account,), (0, 0, 0))
            out.append((account, kind, currency, d, c, d - c if kind in ("asset", "expense") else c - d, n))
    return out


def _asked_for(h: Held, asked: Asked) -> Iterator[tuple[date, JournalRecord, PostedLeg]]:
    """What the partner and those below it asked for, of the product and currency, if any is named."""
    for day, _, _, r, p in h.legs(asked):
        wanted = asked.get("product", "") in ("", r.product) and asked.get("currency", "") in ("", p.currency)
        if wanted and below(r.partner_id, asked["partner"]):
            yield day, r, p


def totals(h: Held, asked: Asked) -> list[Row]:
    sums = _sums(((day, r.partner_id, r.product, p.currency), p) for day, r, p in _asked_for(h, asked))
    return [(*key, *sums[key]) for key in sorted(sums)]


def flows(h: Held, asked: Asked) -> list[Row]:
    sums = _sums(((day, r.product, p.currency), p) for day, r, p in _asked_for(h, asked))
    return [(*key, *sums[key]) for key in sorted(sums)]


def fees(h: Held, asked: Asked) -> list[Row]:
    types = h.opened()
    sums = _sums(
        ((day, r.product, p.currency, owner(p.account_id)), p)
        for day, r, p in _asked_for(h, asked)
        if types.get(p.account_id, ("", ""))[0] == "income"
    )
    return [(*key, c - d, n) for key, (d, c, n) in sorted(sums.items())]


def holds(h: Held, asked: Asked) -> list[Row]:
    # By hold, partition, account to be debited and currency: set aside, released, and the record that opened it.
    aside: Counter[Row] = Counter()
    released: Counter[Row] = Counter()
    opening: dict[Row, JournalRecord] = {}
    ends: dict[Row, int] = {}
    payees: dict[Row, set[str]] = defaultdict(set)
    for partition, _, r in sorted(h.records, key=lambda x: (x[0], x[2].sequence)):
        for leg in r.pending:
            if leg.side == "credit":
                payees[leg.hold_id, partition, leg.currency].add(leg.account_id)
                continue
            key = leg.hold_id, partition, leg.account_id, leg.currency
            (aside if leg.change > 0 else released)[key] += abs(leg.change)
            opening.setdefault(key, r)
            if leg.change > 0 and leg.hold_id == r.command_id and "expires_at" in r.changes:
                ends[key] = int(r.changes["expires_at"])
    out = []
    for key, r in opening.items():
        hold_id, partition, account, currency = key
        left = aside[key] - released[key]
        if left and below(owner(account), asked["partner"]) and asked["account"] in ("", account):
            to = sorted(payees[hold_id, partition, currency])
            transit = account.startswith("bank:crossing:") or f"bank:crossing:{currency}" in to
            out.append((
                hold_id.hex(), "crossing" if transit else "hold", account, " ".join(to), currency, aside[key],
                released[key], left, moment(r.booked_at), h.last_day - r.booked_at // DAY_MS,
                moment(ends[key]) if key in ends else None, r.partner_id, r.product,
            ))  # fmt: skip
    return sorted(out, key=lambda row: (row[8], row[0], row[2], row[4]))


def rejections(h: Held, asked: Asked) -> list[Row]:
    count = Counter(
        (day_of(r, "booking"), r.reason, r.command, r.product, r.partner_id)
        for _, _, r in h.records
        if r.outcome == "rejected" and r.command != "Crossing" and below(r.partner_id, asked["partner"])
        and asked["reason"] in ("", r.reason) and asked["since"] <= day_of(r, "booking").isoformat() <= asked["until"]
    )  # fmt: skip
    return [(*key, n) for key, n in sorted(count.items())]


def profitability(h: Held, asked: Asked) -> list[Row]:
    types = h.opened()
    volume: Counter[Row] = Counter()
    earned: Counter[Row] = Counter()
    spent: Counter[Row] = Counter()
    for _, r, p in _asked_for(h, asked):
        key = r.partner_id, r.product, p.currency
        volume[key] += p.amount if p.side == "debit" else 0
        kind = types.get(p.account_id, ("", ""))[0] if owner(p.account_id) == "bank" else ""
        earned[key] -= _change(p) if kind == "income" else 0
        spent[key] += _change(p) if kind == "expense" else 0
    settled = Counter(
        (r.partner_id, r.product)
        for _, _, r in h.records
        if r.command == "Transaction" and r.outcome == "settled"
        and asked["since"] <= day_of(r, asked["on"]).isoformat() <= asked["until"]
    )  # fmt: skip
    out = []
    for key in sorted(volume):
        margin = earned[key] - spent[key]
        points = None
        if volume[key]:
            whole, rest = divmod(abs(margin) * 10_000, volume[key])
            points = (whole + (2 * rest >= volume[key])) * (-1 if margin < 0 else 1)
        out.append((*key, settled[key[:2]], volume[key], earned[key], spent[key], margin, points))
    return out


def day(h: Held, asked: Asked) -> list[Row]:
    counts: dict[date, Counter[str]] = defaultdict(Counter)
    for _, _, r in h.records:
        at = day_of(r, "booking")
        if asked["since"] <= at.isoformat() <= asked["until"]:
            machine = r.command in ("Crossing", "Tick")
            counts[at][r.outcome if r.command == "Transaction" else "machine" if machine else "control"] += 1
    out: list[Row] = [
        (at, "", 0, n["settled"], n["rejected"], n["repeated"], n["control"], 0, 0, 0, 0, 0) for at, n in counts.items()
    ]
    sums = _sums(((at, p.currency), p) for at, _, _, _, p in h.legs({**asked, "on": "booking"}))
    out += [(*key, 0, 0, 0, 0, 0, d, n, 0, 0, 0) for key, (d, _, n) in sums.items()]
    return sorted(out)


ORACLE: dict[str, Callable[[Held, Asked], list[Row]]] = {
    "trial-balance": trial_balance, "statement": statement, "balances": balances, "totals": totals, "flows": flows,
    "fees": fees, "holds": holds, "rejections": rejections, "profitability": profitability, "day": day,
}  # fmt: skip
