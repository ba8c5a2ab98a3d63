"""Data services and joins against sums over the journal in Python, at the head and at cuts, for the bank and for partners.

A twin makes a month of business; its journal is in a real ClickHouse. What is expected is worked out here from the
journal's records alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import pytest

from clearline.config import Settings
from clearline.fields import EPOCH
from clearline.gateway.app import create_app
from clearline.gateway.parts import Parts
from clearline.gateway.twin import LedgerTwin, give_key, ledger_of, make_twin
from ledger.calendars import DAY_MS
from ledger.names import within
from schemas.records import Transaction
from sinks.finance.catalogue import REPORTS
from sinks.finance.data import PARTS, SERVICES
from tests.contract.test_gateway_reads import TREE, business
from tests.finance_ground import GroundReports, GroundTables

pytestmark = pytest.mark.stack

PARTITIONS = 2
Cut = dict[int, int]


class Leg(NamedTuple):
    """A posting with what is known of its record."""

    partner: str
    product: str
    operation: str
    account: str
    side: str
    amount: int
    currency: str
    value: date
    booked: date
    reference: str
    metadata: dict[str, str]
    entry: tuple[int, int]


@dataclass
class Ground:
    """The gateway over the twin, its journal as legs, and clients."""

    parts: Parts
    twin: LedgerTwin
    clients: dict[str, httpx.AsyncClient]
    loop: asyncio.AbstractEventLoop

    def get(self, who: str, path: str, **query: str) -> httpx.Response:
        """An answer to `bank` or a partner."""
        return self.loop.run_until_complete(self.clients[who].get(path, params=query))

    def rows(self, who: str, path: str, **query: str) -> list[dict[str, Any]]:
        """The rows of an answer."""
        answer = self.get(who, path, **query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["rows"]
        return found

    def put(self, who: str, table: str, body: bytes, **query: str) -> None:
        """Puts a table."""
        headers = {"Content-Type": "text/csv", "Idempotency-Key": f"{table}-{random.random()}"}
        path = f"/v1/data/tables/{table}"
        answer = self.loop.run_until_complete(self.clients[who].put(path, params=query, content=body, headers=headers))
        assert answer.status_code == 201, answer.text

    def legs(self, cut: Cut | None = None) -> Iterator[Leg]:
        """Every posting up to a cut."""
        for p in range(PARTITIONS):
            for r in self.twin.journal_of(p):
                if cut is not None and r.sequence > cut.get(p, 0):
                    continue
                booked = datetime.fromtimestamp(r.booked_at / 1000, UTC).date()
                for leg in r.postings:
                    yield Leg(
                        r.partner_id, r.product, r.operation, leg.account_id, leg.side, leg.amount, leg.currency,
                        EPOCH + timedelta(days=r.value_date), booked, r.reference, dict(r.metadata), (p, r.sequence),
                    )  # fmt: skip

    def cuts(self) -> Iterator[tuple[Cut | None, dict[str, str]]]:
        """The head, and a place in the middle, as a cut and as the query that asks for it."""
        yield None, {}
        cut = {p: len(self.twin.journal_of(p)) * (3 + p) // 5 for p in range(PARTITIONS)}
        yield cut, {"cut": ",".join(f"{p}:{s}" for p, s in cut.items())}


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    parts = make_twin(Settings(world="sandbox", partitions=PARTITIONS), PARTITIONS)
    twin = ledger_of(parts)
    business(twin)
    rng = random.Random(8)
    for i in range(60):  # with metadata, and a second product
        twin.advance(rng.randrange(DAY_MS // 4))
        payer, payee = rng.sample([f"{p}:wallet:{n}" for p in TREE[:4] for n in "b"], 2)
        twin.settle(Transaction(
            payer.partition(":")[0], f"m{i}", "wallet", "transfer", rng.randrange(1, 900), "CNY",
            {"payer": payer, "payee": payee}, (), twin.now_ms // DAY_MS, reference=f"order {i % 7}",
            metadata={"shop": str(i % 3)} if i % 4 else {},
        ))  # fmt: skip
    reports = GroundReports(twin)
    parts.reporting, parts.tables = reports, GroundTables(twin)
    app = create_app(parts)

    def client(who: str) -> httpx.AsyncClient:
        headers = give_key(parts, who, *(("reports",) if who == "bank" else ()))
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test", headers=headers)

    loop = asyncio.new_event_loop()
    yield Ground(parts, twin, {who: client(who) for who in ("bank", *TREE)}, loop)
    loop.run_until_complete(reports.close())
    loop.close()


def sees(who: str, partner: str) -> bool:
    return who == "bank" or within(partner, who)


def period(day: date, by: str) -> date:
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[by]


def summed(legs: Iterator[Leg], key: Callable[[Leg], Any]) -> dict[Any, list[int]]:
    """Debits, credits and count by a key."""
    out: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    for x in legs:
        sums = out[key(x)]
        sums[x.side == "credit"] += x.amount
        sums[2] += 1
    return out


MEASURES = ("debits", "credits", "postings")


@pytest.mark.parametrize("who", ["bank", "acme/shop-2"])
@pytest.mark.parametrize("by", ["product", "day,partner", "week,operation,product", "month,partner,operation", ""])
def test_aggregates_are_the_sums_of_the_journal(ground: Ground, who: str, by: str) -> None:
    names = [n for n in by.split(",") if n]
    for cut, asked in ground.cuts():
        for on in ("value", "booking"):
            key = _key(names, on)
            must = summed((x for x in ground.legs(cut) if sees(who, x.partner)), key)
            found = ground.rows(who, "/v1/data/aggregates", by=by, on=on, **asked)
            got = {(*(r[n] for n in names), r["currency"]): [r[m] for m in MEASURES] for r in found}
            assert got == dict(must), (who, by, asked)
            assert [list(r) for r in found] == [[*_in_order(names), "currency", *MEASURES]] * len(found)


def _in_order(names: list[str]) -> list[str]:
    return [n for n in ("day", "week", "month", "product", "operation", "partner") if n in names]


def _key(names: list[str], on: str) -> Callable[[Leg], Any]:
    def key(x: Leg) -> tuple[str, ...]:
        day = x.value if on == "value" else x.booked
        return (
            *(str(period(day, n)) if n in ("day", "week", "month") else str(getattr(x, n)) for n in names),
            x.currency,
        )

    return key


def test_filters_leave_out_everything_else(ground: Ground) -> None:
    since, until = date(2026, 11, 25), date(2026, 12, 1)
    legs = [
        x
        for x in ground.legs()
        if since <= x.value <= until and x.operation == "transfer" and sees("acme/shop-2", x.partner)
    ]
    must = summed(iter(legs), lambda x: x.partner)
    found = ground.rows("acme", "/v1/data/aggregates", by="partner", since=str(since), until=str(until),
                        operation="transfer", partner="acme/shop-2")  # fmt: skip
    assert legs and {r["partner"]: [r[m] for m in MEASURES] for r in found} == dict(must)
    for nothing in ({"product": "none"}, {"currency": "USD"}, {"operation": "' OR 1 = 1 --"}, {"product": "\\"}):
        assert ground.rows("acme", "/v1/data/aggregates", **nothing) == []


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("by", ["day", "week", "month"])
def test_a_series_has_no_gaps(ground: Ground, measure: str, by: str) -> None:
    since, until = date(2026, 11, 3), date(2026, 12, 28)
    for cut, asked in ground.cuts():
        must: Counter[str] = Counter()
        for n in range((until - since).days + 1):
            must[str(period(since + timedelta(days=n), by))] += 0
        for x in ground.legs(cut):
            if since <= x.value <= until and sees("acme", x.partner):
                counted = 1 if measure == "postings" else x.amount if x.side == measure[:-1] else 0
                must[str(period(x.value, by))] += counted
        found = ground.rows("acme", "/v1/data/series", measure=measure, by=by, since=str(since), until=str(until),
                            currency="CNY", **asked)  # fmt: skip
        assert [(r["begins"], r["value"]) for r in found] == sorted(must.items())
    kinds = {c["name"]: c["kind"] for c in ground.get("acme", "/v1/data/series", measure=measure).json()["columns"]}
    assert kinds["value"] == ("count" if measure == "postings" else "money")


@pytest.mark.parametrize("who", ["bank", "acme"])
@pytest.mark.parametrize("of", ["partner", "account", "product", "operation"])
def test_the_first_are_those_with_most_and_ties_go_by_name(ground: Ground, who: str, of: str) -> None:
    for cut, asked in ground.cuts():
        for i, measure in enumerate(MEASURES):
            owned = (
                x for x in ground.legs(cut) if sees(who, x.account.partition(":")[0] if of == "account" else x.partner)
            )
            must = summed(owned, lambda x: getattr(x, of))
            ranked = sorted(must.items(), key=lambda item: (-item[1][i], item[0]))[:4]
            found = ground.rows(who, "/v1/data/top", of=of, measure=measure, n="4", **asked)
            assert [(r["name"], [r[m] for m in MEASURES]) for r in found] == ranked
            assert [r["rank"] for r in found] == list(range(1, len(ranked) + 1))


@pytest.mark.parametrize("by", ["day", "week", "month"])
def test_cash_flow_runs_to_the_accounts_balance(ground: Ground, by: str) -> None:
    since, until = date(2026, 11, 26), date(2026, 12, 20)
    for account, who in (
        ("acme:wallet:a", "acme"),
        ("acme/shop-2/till:wallet:b", "acme/shop-2"),
        ("globex:wallet:a", "bank"),
    ):
        for cut, asked in ground.cuts():
            own = [x for x in ground.legs(cut) if x.account == account and x.value <= until]
            if not own:
                continue
            flows: dict[str, list[int]] = {}
            for n in range((until - since).days + 1):
                flows.setdefault(str(period(since + timedelta(days=n), by)), [0, 0, 0])
            balance = 0
            for x in own:  # a liability: credits come in
                if x.value < since:
                    balance += x.amount if x.side == "credit" else -x.amount
                else:
                    flow = flows[str(period(x.value, by))]
                    flow[x.side == "debit"] += x.amount
                    flow[2] += 1
            must = []
            for begins, (inflow, outflow, count) in sorted(flows.items()):
                balance += inflow - outflow
                must.append([begins, "CNY", inflow, outflow, inflow - outflow, balance, count])
            found = ground.rows(
                who, f"/v1/data/cash-flow/{account}", by=by, since=str(since), until=str(until), **asked
            )
            assert [list(r.values()) for r in found] == must, (account, asked)


def test_counterparties_and_what_comes_in_regularly(ground: Ground) -> None:
    account, everything = "acme/shop-1:wallet:b", {"since": "2026-01-01", "until": "2026-12-31"}
    for cut, asked in ground.cuts():
        legs = list(ground.legs(cut))
        mine = {(x.entry, x.side) for x in legs if x.account == account}
        other = {"debit": "credit", "credit": "debit"}
        for who in ("bank", "acme/shop-1"):
            must: dict[str, list[Any]] = defaultdict(lambda: [0, 0, set()])
            for x in legs:
                if x.account != account and (x.entry, other[x.side]) in mine:
                    owner = x.account.partition(":")[0]
                    sums = must[x.account if sees(who, owner) else owner]
                    sums[x.side == "credit"] += x.amount  # what the other was debited came in
                    sums[2].add(x.entry)
            ranked = sorted(((-a - b, name, a, b, len(e)) for name, (a, b, e) in must.items()))
            found = ground.rows(
                who, f"/v1/data/cash-flow/{account}", part="counterparties", n="1000", **everything, **asked
            )
            got = [(r["counterparty"], r["paid_in"], r["paid_out"], r["entries"]) for r in found]
            assert got == [item[1:] for item in ranked]
        inflows: dict[tuple[str, str, str], list[Leg]] = defaultdict(list)
        for x in legs:
            if x.account == account and x.side == "credit":
                inflows[x.partner, x.product, x.operation].append(x)
        found = ground.rows("acme", f"/v1/data/cash-flow/{account}", part="regular", **everything, **asked)
        assert [(r["partner"], r["product"], r["operation"]) for r in found] == sorted(inflows)
        for r in found:
            own = inflows[r["partner"], r["product"], r["operation"]]
            amounts, days = sorted(x.amount for x in own), sorted(x.value.day for x in own)
            months = [x.value.year * 12 + x.value.month for x in own]
            assert list(r.values())[3:] == [
                "CNY", len(own), len(set(months)), max(months) - min(months) + 1, amounts[(len(own) - 1) // 2], amounts[0],
                amounts[-1], days[(len(own) - 1) // 2], str(min(x.value for x in own)), str(max(x.value for x in own)),
            ]  # fmt: skip


JOINS: list[tuple[str, Callable[[Leg], str]]] = [
    ("partner", lambda x: x.partner), ("account", lambda x: x.account), ("reference", lambda x: x.reference),
    ("metadata.shop", lambda x: x.metadata.get("shop", "")),
]  # fmt: skip


@pytest.mark.parametrize(("match", "key"), JOINS, ids=[m for m, _ in JOINS])
def test_a_join_counts_every_posting_once(ground: Ground, match: str, key: Callable[[Leg], str]) -> None:
    """By a table that has some of the keys: the others stand under an empty text, and the sum of all is unchanged."""
    legs = [x for x in ground.legs() if sees("acme", x.partner)]
    some = {k: f"g{i % 2}" for i, k in enumerate(sorted({key(x) for x in legs if key(x)})) if i % 3}
    assert some
    body = "id,grp,other\n" + "".join(f'"{k}",{g},x\n' for k, g in some.items()) + "nobody,g9,x\n"
    ground.put("acme", f"of_{match.replace('.', '_')}", body.encode())
    for cut, asked in ground.cuts():
        own = (x for x in ground.legs(cut) if sees("acme", x.partner))
        must = summed(own, lambda x: (str(period(x.value, "month")), some.get(key(x), "")))
        name = f"of_{match.replace('.', '_')}"
        found = ground.rows("acme", "/v1/data/aggregates", by="month", join=name, match=match, columns="grp", **asked)
        assert {(r["month"], r[f"{name}_grp"]): [r[m] for m in MEASURES] for r in found} == dict(must)


def test_nobody_is_shown_anything_of_another_tree(ground: Ground) -> None:
    """Every report and service that partners may ask, with whatever parameter names another partner or account."""
    ways: list[tuple[Any, str, dict[str, str]]] = [(r, f"/v1/reports/{r.name}", {}) for r in REPORTS if r.scoped]
    ways += [(s, f"/v1/data/{s.name}", {}) for s in SERVICES[:4] if not s.name.startswith(("aggregates-", "cash"))]
    ways += [(s, "/v1/data/cash-flow/{account}", {"part": part}) for part, s in PARTS.items()]
    for report, path, more in ways:
        names = {p.asked: p.name for p in report.parameters}
        mine: dict[str, str] = dict(more)
        if "{account}" not in path and any(p.asked == "account" and p.default is None for p in report.parameters):
            mine["account"] = "globex:wallet:a"
        answer = ground.get("globex", path.format(account="globex:wallet:a"), **mine)
        assert answer.status_code == 200, (path, answer.text)
        rows = answer.json()["rows"]
        if "account" not in mine and "{account}" not in path:
            assert "acme" not in str(rows), (path, rows)  # owners and askers alike
        for other in ("acme", "acme0", "bank", "globex0", "glob", "globe", "acme/shop-2", "globex/../acme", ""):
            for account in (f"{other}:wallet:a", f"{other}:wallet:none", other):
                if "{account}" in path:
                    hidden = ground.get("globex", path.format(account=account), **mine)
                    assert hidden.status_code == 404, (path, account)
                elif "account" in names and account:
                    hidden = ground.get("globex", path, **{**mine, "account": account})
                    assert hidden.status_code == 404, (path, account)
            if "partner" in names and other:
                hidden = ground.get("globex", path.format(account="globex:wallet:a"), **{**mine, "partner": other})
                assert hidden.status_code == 404, (path, other)
    for report in REPORTS:
        if not report.scoped:
            assert ground.get("acme", f"/v1/reports/{report.name}").status_code == 404
    listed = [r["name"] for r in ground.get("acme", "/v1/reports").json()["items"]]
    assert listed == [r.name for r in REPORTS if r.scoped]
    assert len(ground.get("bank", "/v1/reports").json()["items"]) == len(REPORTS)


@pytest.mark.parametrize("report", [r for r in (*REPORTS, *SERVICES) if r.scoped], ids=lambda r: r.name)
def test_what_partners_may_ask_can_be_held_to_a_subtree(report: Any) -> None:
    """An entry that says `scoped` and has nothing to hold it by would be nobody's; this says so before a partner does."""
    assert [p for p in report.parameters if p.asked == "partner" or (p.asked == "account" and p.default is None)]


def test_names_that_an_entry_does_not_have_are_refused(ground: Ground) -> None:
    for path, query in (
        ("/v1/data/aggregates", {"by": "account"}), ("/v1/data/aggregates", {"by": "day,week"}),
        ("/v1/data/aggregates", {"by": "day,day"}), ("/v1/data/aggregates", {"by": "day,"}),
        ("/v1/data/aggregates", {"match": "account"}), ("/v1/data/aggregates", {"join": "nothing"}),
        ("/v1/data/series", {"by": "year"}), ("/v1/data/series", {"measure": "amount"}), ("/v1/data/top", {"n": "0"}),
        ("/v1/data/top", {"n": "1001"}), ("/v1/data/top", {"n": "-1"}), ("/v1/data/top", {"n": "٣"}),
        ("/v1/data/cash-flow/acme:wallet:a", {"part": "all"}), ("/v1/data/cash-flow/acme:wallet:a", {"account": "x"}),
        ("/v1/data/series", {"since": "2026-02-30"}), ("/v1/data/series", {"since": "2026-12-02", "until": "2026-12-01"}),
        ("/v1/data/series", {"cut": ""}), ("/v1/data/series", {"cut": "0"}), ("/v1/data/series", {"cut": "0:1,0:2"}),
        ("/v1/data/series", {"cut": f"0:{10**30}"}), ("/v1/data/series", {"cut": f"{10**9}:1"}),
        ("/v1/data/series", {"cut": "0:1", "closed": "2026-11-22"}), ("/v1/data/series", {"closed": "2026-11-22"}),
        ("/v1/data/series", {"known_at": "soon"}), ("/v1/data/series", {"format": "pdf"}), ("/v1/data/top", {"lines": "1"}),
    ):  # fmt: skip
        answer = ground.get("acme", path, **query)
        assert (answer.status_code, answer.json()["code"]) == (422, "field_invalid"), (query, answer.text)
        assert answer.json()["errors"][0]["field"] in {*query, "cut"}, (query, answer.text)
