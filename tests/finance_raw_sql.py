"""Each report of the catalogue once more, in plain SQL over the raw rows: no view, no projection, every row read.

A cut is a sequence for each partition and a moment; each row is compared with it. Sums are made in one pass with
conditions inside, where the views have two halves and pivot outside. Of `day`, the columns `calls`, `p50_us`, `p99_us`
and `max_us` have no source in the journal: they are 0 here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sinks.clickhouse import Database

Row = tuple[Any, ...]
Asked = Mapping[str, str]
RAW = " SETTINGS optimize_use_projections = 0, optimize_use_implicit_projections = 0"
SIGNED = "if(side = 'debit', amount, -amount)"


@dataclass(frozen=True)
class Raw:
    """The raw rows of a database up to a cut. `known_at`: None for no such moment."""

    db: Database
    sequences: Mapping[int, int]
    known_at: datetime | None

    def rows(self, statement: str) -> list[Row]:
        """What a statement finds, past all projections."""
        found = self.db.rows(statement + RAW)
        return [tuple(v.decode() if isinstance(v, bytes) else v for v in row) for row in found]

    @property
    def places(self) -> str:
        """Of which rows the sequences are."""
        pairs = [f"(partition = {p} AND sequence <= {n})" for p, n in self.sequences.items()]
        return f"({' OR '.join(pairs) or '0'})"

    @property
    def cut(self) -> str:
        """Which rows are in the cut."""
        if self.known_at is None:
            return self.places
        return f"({self.places} AND booked_at <= toDateTime64('{self.known_at:%Y-%m-%d %H:%M:%S.%f}', 3, 'UTC'))"

    @property
    def types(self) -> str:
        """Type and currency of each account that was opened."""
        return (
            "(SELECT subject_id AS name, max(account_type) AS kind, max(currency) AS money FROM control_changes "
            f"WHERE command = 'OpenAccount' AND {self.cut} GROUP BY subject_id)"
        )

    def legs(self, asked: Asked) -> str:
        """Postings in the cut with their day `d` and their account's `kind`."""
        return (
            f"(SELECT *, {day(asked['on'])} AS d FROM postings WHERE {self.cut}) AS p "
            f"LEFT JOIN {self.types} AS t ON t.name = p.account_id"
        )


def day(on: str) -> str:
    """From what the journal has, not from the columns that are made of it."""
    return "toDate32(booked_at)" if on == "booking" else "addDays(toDate32('1970-01-01'), value_day)"


def within(asked: Asked, d: str = "d") -> str:
    return f"{d} >= toDate32('{asked['since']}') AND {d} <= toDate32('{asked['until']}')"


def below(column: str, partner: str) -> str:
    return f"({column} = '{partner}' OR {column} LIKE '{partner}/%')" if partner else "1"


def owner(column: str, asked: Asked) -> str:
    """Of the account in a column: its owner, or the account itself, is asked for."""
    named = f"{column} = '{asked['account']}'" if asked["account"] else "1"
    return f"{below(f'splitByChar({chr(39)}:{chr(39)}, {column})[1]', asked['partner'])} AND {named}"


def asker(asked: Asked) -> str:
    named = [f"{c} = '{asked[c]}'" for c in ("product", "currency") if asked.get(c)]
    return " AND ".join([below("partner_id", asked["partner"]), *named])


def trial_balance(raw: Raw, asked: Asked) -> list[Row]:
    name = {"currency": "p.currency", "type": "kind", "account": "account_id"}[asked["by"]]
    inside = within(asked)
    return raw.rows(
        f"SELECT {name} AS n, p.currency AS c, sumIf({SIGNED}, d < toDate32('{asked['since']}')) AS o, "
        f"sumIf(amount, side = 'debit' AND {inside}) AS debits, sumIf(amount, side = 'credit' AND {inside}) AS credits, "
        f"debits - credits, o + debits - credits, countIf({inside}) FROM {raw.legs(asked)} "
        f"WHERE d <= toDate32('{asked['until']}') GROUP BY n, c ORDER BY n, c"
    )


def statement(raw: Raw, asked: Asked) -> list[Row]:
    found = raw.rows(f"SELECT kind, money FROM {raw.types} WHERE name = '{asked['account']}'")
    if not found:
        return []
    kind, money = found[0]
    sign, inside = ("" if kind in ("asset", "expense") else "-"), within(asked)
    own = f"account_id = '{asked['account']}' AND d <= toDate32('{asked['until']}')"
    lines = raw.rows(
        "SELECT 'line', v, booked_at, product, operation, reference, partner_id, debits, credits, balance, "
        "currency, 1, partition, sequence, line, offset FROM (SELECT *, addDays(toDate32('1970-01-01'), value_day) AS v, "
        "if(side = 'debit', amount, 0) AS debits, if(side = 'credit', amount, 0) AS credits, "
        f"sum({sign}({SIGNED})) OVER (ORDER BY d, booked_at, partition, sequence, line ROWS UNBOUNDED PRECEDING) "
        f"AS balance FROM (SELECT *, {day(asked['on'])} AS d FROM postings WHERE {raw.cut}) WHERE {own}) "
        f"WHERE {inside} ORDER BY d, booked_at, partition, sequence, line LIMIT {asked['lines_max']}"
    )
    opening, debits, credits_, n = raw.rows(
        f"SELECT {sign}sumIf({SIGNED}, NOT ({inside})), sumIf(amount, side = 'debit' AND {inside}), "
        f"sumIf(amount, side = 'credit' AND {inside}), countIf({inside}) FROM {raw.legs(asked)} WHERE {own}"
    )[0]
    closing = opening + (debits - credits_) * (-1 if sign else 1)
    nothing = None, None, "", "", "", ""
    first = ("opening", *nothing, 0, 0, opening, money, 0, None, None, None, None)
    return [first, *lines, ("closing", *nothing, debits, credits_, closing, money, n, None, None, None, None)]


def balances(raw: Raw, asked: Asked) -> list[Row]:
    inside = f"p.line IS NOT NULL AND d <= toDate32('{asked['until']}')"
    return raw.rows(
        f"SELECT name, kind, money, sumIf(amount, side = 'debit' AND {inside}) AS debits, "
        f"sumIf(amount, side = 'credit' AND {inside}) AS credits, "
        f"if(kind IN ('asset', 'expense'), debits - credits, credits - debits), countIf({inside} AND p.amount > 0) "
        f"FROM {raw.types} AS t LEFT JOIN (SELECT *, {day(asked['on'])} AS d FROM postings WHERE {raw.cut}) AS p "
        f"ON t.name = p.account_id WHERE {owner('name', asked)} GROUP BY name, kind, money ORDER BY name"
    )


def totals(raw: Raw, asked: Asked) -> list[Row]:
    return _by_day(raw, asked, "d, partner_id, product, currency")


def flows(raw: Raw, asked: Asked) -> list[Row]:
    return _by_day(raw, asked, "d, product, currency")


def _by_day(raw: Raw, asked: Asked, key: str) -> list[Row]:
    return raw.rows(
        f"SELECT {key}, sumIf(amount, side = 'debit'), sumIf(amount, side = 'credit'), count() "
        f"FROM (SELECT *, {day(asked['on'])} AS d FROM postings WHERE {raw.cut}) "
        f"WHERE {within(asked)} AND {asker(asked)} GROUP BY {key} ORDER BY {key}"
    )


def fees(raw: Raw, asked: Asked) -> list[Row]:
    return raw.rows(
        f"SELECT d, product, currency, splitByChar(':', account_id)[1] AS o, sum(-({SIGNED})), count() "
        f"FROM {raw.legs(asked)} WHERE kind = 'income' AND {within(asked)} AND {asker(asked)} "
        "GROUP BY d, product, currency, o ORDER BY d, product, currency, o"
    )


def holds(raw: Raw, asked: Asked) -> list[Row]:
    last = f"(SELECT max(toDate32(booked_at)) FROM outcomes WHERE {raw.places})"
    if raw.known_at is not None:
        last = f"least({last}, toDate32('{raw.known_at:%Y-%m-%d}'))"
    return raw.rows(
        "SELECT lower(hex(d.hold_id)), "
        "if(account_id LIKE 'bank:crossing:%%' OR has(splitByChar(' ', to), concat('bank:crossing:', currency)), "
        f"'crossing', 'hold'), account_id, to, currency, aside, -back, aside + back, opened, dateDiff('day', "
        f"toDate32(opened), {last}), nullIf(ends, toDateTime64(0, 3, 'UTC')), partner, product "
        "FROM (SELECT hold_id, partition, account_id, currency, sumIf(change, change > 0) AS aside, "
        "sumIf(change, change < 0) AS back, min(booked_at) AS opened, max(expires_at) AS ends, "
        "argMin(partner_id, sequence) AS partner, argMin(product, sequence) AS product FROM pending "
        f"WHERE side = 'debit' AND {raw.cut} AND {owner('account_id', asked)} "
        "GROUP BY hold_id, partition, account_id, currency HAVING sum(change) != 0) AS d LEFT JOIN "
        "(SELECT hold_id, partition, currency, arrayStringConcat(arraySort(groupUniqArray(account_id)), ' ') AS to "
        f"FROM pending WHERE side = 'credit' AND {raw.cut} GROUP BY hold_id, partition, currency) AS c "
        "USING (hold_id, partition, currency) ORDER BY opened, lower(hex(d.hold_id)), account_id, currency"
    )


def rejections(raw: Raw, asked: Asked) -> list[Row]:
    reason = f"reason = '{asked['reason']}'" if asked["reason"] else "1"
    return raw.rows(
        "SELECT toDate32(booked_at) AS d, reason, command, product, partner_id, count() FROM outcomes "
        f"WHERE {raw.cut} AND outcome = 'rejected' AND command != 'Crossing' AND {within(asked)} AND {reason} "
        f"AND {below('partner_id', asked['partner'])} "
        "GROUP BY d, reason, command, product, partner_id ORDER BY d, reason, command, product, partner_id"
    )


def profitability(raw: Raw, asked: Asked) -> list[Row]:
    ours = "startsWith(account_id, 'bank:')"
    return raw.rows(
        f"SELECT m.*, f - e AS margin, if(volume = 0, NULL, toInt64(sign(margin) * intDiv(abs(margin) * 10000 * 2 + volume, "
        "volume * 2))) FROM (SELECT partner_id, product, c, s.n AS transactions, volume, f, e FROM "
        "(SELECT partner_id, product, p.currency AS c, sumIf(amount, side = 'debit') AS volume, "
        f"sumIf(-({SIGNED}), kind = 'income' AND {ours}) AS f, sumIf({SIGNED}, kind = 'expense' AND {ours}) AS e "
        f"FROM {raw.legs(asked)} WHERE {within(asked)} AND {asker(asked)} GROUP BY partner_id, product, c) AS x "
        "LEFT JOIN (SELECT partner_id, product, count() AS n FROM outcomes WHERE command = 'Transaction' "
        f"AND outcome = 'settled' AND {raw.cut} AND {within(asked, day(asked['on']))} GROUP BY partner_id, product) AS s "
        "USING (partner_id, product)) AS m ORDER BY partner_id, product, c"
    )


def platform_day(raw: Raw, asked: Asked) -> list[Row]:
    inside = within(asked, "toDate32(booked_at)")
    counts = ", ".join(
        f"countIf(command = 'Transaction' AND outcome = '{o}')" for o in ("settled", "rejected", "repeated")
    )
    commands = raw.rows(
        f"SELECT toDate32(booked_at) AS d, '', 0, {counts}, countIf(command NOT IN ('Transaction', 'Crossing', 'Tick')), "
        f"0, 0, 0, 0, 0 FROM outcomes WHERE {raw.cut} AND {inside} GROUP BY d"
    )
    amounts = raw.rows(
        "SELECT toDate32(booked_at) AS d, currency, 0, 0, 0, 0, 0, sumIf(amount, side = 'debit'), count(), 0, 0, 0 "
        f"FROM postings WHERE {raw.cut} AND {inside} GROUP BY d, currency"
    )
    return sorted(commands + amounts)


RAW_SQL: dict[str, Callable[[Raw, Asked], list[Row]]] = {
    "trial-balance": trial_balance, "statement": statement, "balances": balances, "totals": totals, "flows": flows,
    "fees": fees, "holds": holds, "rejections": rejections, "profitability": profitability, "day": platform_day,
}  # fmt: skip
