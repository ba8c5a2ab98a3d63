"""Reports over HTTP: what is kept and for whom, what is told of it, limits; and partners' tables, whole or not at all."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import polars as pl
import pytest

from clearline.finance import formats, uploads
from clearline.gateway.problems import Problem
from clearline.gateway.reporting import NOT_KEPT, OF_ONE, THREADS, WAITING_OF_ONE, Kept, Question, Reports, When
from clearline.gateway.routes.tables import READING_MAX
from clearline.gateway.twin import ledger_of
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import BANK
from sinks.clickhouse import ClickHouseConfig, Database, TooMuchError
from sinks.finance.ask import Result
from sinks.finance.catalogue import CATALOGUE
from sinks.finance.tables import Tables, Version, data_database
from sinks.gate import CallLimits, LocalGate
from tests.contract.gateway_world import GatewayWorld
from tests.finance_ground import GroundReports, GroundTables, store, stored
from tests.gateway import in_loop

pytestmark = pytest.mark.stack

TRIAL, BALANCES = "/v1/reports/trial-balance", "/v1/reports/balances"


class Desk(GatewayWorld):
    """A world with clients of the bank and of partners, whose reports and tables can be looked at."""

    def __init__(self, **gateway: Any) -> None:
        super().__init__(gateway=gateway)
        # Whatever a test does to tables is of this world alone.
        self.ledger.fund("acme:wallet:alice", next(_AMOUNTS))
        self.bank = self.client(self.key(BANK, ["reports"]))
        self.acme, self.zeta = (self.client(self.key(p)) for p in ("acme", "zeta"))
        self._numbers = iter(range(1, 10_000))

    @property
    def ground(self) -> GroundReports:
        assert isinstance(self.parts.reporting, GroundReports)
        return self.parts.reporting

    @property
    def asked(self) -> list[int]:
        """Grows with every question that ClickHouse is asked from here on."""
        pool: Any = self.ground.reports._pool
        questions: list[int] = []
        ask = pool.ask

        async def counted(question: Any) -> Any:
            questions.append(1)
            return await ask(question)

        pool.ask = counted
        return questions

    async def put(
        self, name: str, body: bytes, media: str = "text/csv", *, by: httpx.AsyncClient | None = None,
        key: str = "", **query: str,
    ) -> httpx.Response:  # fmt: skip
        headers = {"Content-Type": media, "Idempotency-Key": key or f"k-{next(self._numbers)}"}
        return await (by or self.acme).put(f"/v1/data/tables/{name}", params=query, content=body, headers=headers)


_AMOUNTS = iter(range(1, 10_000))


def desk(**gateway: Any) -> Callable[[Callable[[Desk], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """A test over a desk of its own, whose connections are closed after it."""

    def decorated(test: Callable[[Desk], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        @in_loop
        async def run() -> None:
            d = Desk(**gateway)
            try:
                await test(d)
            finally:
                await d.parts.reporting.close()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorated


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# ---- what is kept ----------------------------------------------------------------------------------------------------


@desk()
async def test_a_thousand_askers_cost_one_look_and_one_report(d: Desk) -> None:
    asked = d.asked
    answers = await asyncio.gather(*(d.bank.get(TRIAL) for _ in range(1000)))
    assert {a.status_code for a in answers} == {200} and len({a.content for a in answers}) == 1
    assert len({a.headers["etag"] for a in answers}) == 1
    assert len(asked) <= 4  # the head, and the report; both again when they took a second
    assert all(a.headers["cache-control"] == "private, max-age=1" and int(a.headers["age"]) <= 5 for a in answers)


@desk()
async def test_what_is_asked_at_a_cut_is_the_same_to_the_byte_and_costs_nothing_again(d: Desk) -> None:
    first = await d.bank.get(TRIAL)
    cut = first.headers["clearline-as-of"]
    assert cut == ",".join(f"{p}:{len(d.ledger.journal_of(p))}" for p in range(4))
    at_cut = await d.bank.get(TRIAL, params={"cut": cut})
    assert at_cut.content == first.content and at_cut.headers["etag"] == first.headers["etag"]
    assert at_cut.headers["cache-control"] == "private, max-age=86400, immutable"
    asked = d.asked
    for _ in range(50):
        assert (await d.bank.get(TRIAL, params={"cut": cut})).content == first.content
    assert not asked
    d.ledger.open("acme:wallet:new", funds=5_000)
    store(d.ledger, stored(d.ledger))
    assert (await d.bank.get(TRIAL, params={"cut": cut})).content == first.content

    async def newer() -> httpx.Response:
        while True:  # the head is looked at anew when it was last seen a second ago
            answer = await d.bank.get(TRIAL)
            if answer.headers["clearline-as-of"] != cut:
                return answer
            await asyncio.sleep(0)

    async with asyncio.timeout(180):
        after = await newer()
    assert after.json()["rows"] != first.json()["rows"] and after.headers["etag"] != first.headers["etag"]


@desk()
async def test_an_answer_is_not_told_to_whom_has_it_already(d: Desk) -> None:
    first = await d.acme.get(BALANCES)
    tag = first.headers["etag"]
    for header in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        again = await d.acme.get(BALANCES, headers={"If-None-Match": header})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag and again.headers["clearline-as-of"] == first.headers["clearline-as-of"]
    for header in ('"x"', tag.strip('"'), f"{tag[:-2]}0"):
        assert (await d.acme.get(BALANCES, headers={"If-None-Match": header})).status_code == 200
    assert (await d.zeta.get(BALANCES, headers={"If-None-Match": tag})).status_code == 200
    hidden = await d.zeta.get(BALANCES, params={"partner": "acme"}, headers={"If-None-Match": tag})
    assert code_of(hidden) == (404, "not_found")  # who holds another's tag learns nothing


@desk()
async def test_what_was_worked_out_for_one_is_never_given_to_another(d: Desk) -> None:
    shop, desk_key = d.client(d.key("acme/shop-17")), d.client(d.key("acme/shop-17/desk"))
    by_header = d.client(d.key("acme"), **{"Clearline-Partner": "acme/shop-17"})
    for _ in range(3):  # the second time from memory
        seen = {}
        for name, client in (("bank", d.bank), ("acme", d.acme), ("zeta", d.zeta), ("shop", shop), ("desk", desk_key)):
            rows = (await client.get(BALANCES)).json()["rows"]
            seen[name] = {r["account"].partition(":")[0] for r in rows}
        assert seen["bank"] >= {"bank", "acme", "zeta"} and seen["zeta"] == {"zeta"}
        assert seen["acme"] == {"acme", "acme/shop-17", "acme/shop-18", "acme/shop-17/desk"}
        assert seen["shop"] == {"acme/shop-17", "acme/shop-17/desk"} and seen["desk"] == {"acme/shop-17/desk"}
        assert (await by_header.get(BALANCES)).json()["rows"] == (await shop.get(BALANCES)).json()["rows"]


@in_loop
async def test_kept_answers_are_bounded_and_failures_are_not_kept() -> None:
    kept, made = Kept(1_000), 0

    def make(size: int) -> Callable[[], Awaitable[tuple[int, int]]]:
        async def answer() -> tuple[int, int]:
            nonlocal made
            made += 1
            await asyncio.sleep(0)
            return made, size

        return answer

    for n in range(50):
        await kept.get(n, make(200))
        assert kept.bytes <= 1_000
    assert len(kept) == 5
    before = made
    assert await kept.get(49, make(200)) == 50 and made == before
    await kept.get("large", make(251))
    await kept.get("no", make(NOT_KEPT))
    assert len(kept) == 5
    first, *others = await asyncio.gather(*(kept.get("one", make(10)) for _ in range(100)))
    assert set(others) == {first} and made == before + 3

    async def fails() -> tuple[int, int]:
        await asyncio.sleep(0)
        raise PartUnavailableError("ClickHouse", "test", "away")

    told = await asyncio.gather(*(kept.get("bad", fails) for _ in range(3)), return_exceptions=True)
    assert [type(t) for t in told] == [PartUnavailableError] * 3
    assert await kept.get("bad", make(10))

    waiting = [asyncio.create_task(kept.get("slow", make(10))) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await waiting[1]  # who goes away ends his own waiting only


@desk()
async def test_one_partner_with_many_reports_leaves_turns_to_others(d: Desk) -> None:
    """Files that are being made hold all their rows, and a large one holds the interpreter: few at once, and of one
    root partner never all of them."""
    making: list[str] = []
    most, ends = [0], threading.Event()
    shop = d.client(d.key("acme/shop-17"))

    def slow(found: Result) -> bytes:
        making.append(found.asked["partner"])
        most[0] = max(most[0], len(making))
        ends.wait(30)
        making.remove(found.asked["partner"])
        return b"made"

    when = await d.ground.place(When())

    def file(whose: str, n: int) -> asyncio.Task[bytes]:
        values = {"partner": whose, "product": str(n)}
        question = Question(CATALOGUE["totals"], values, when, whose)
        return asyncio.create_task(d.ground.reports.file(question, "slow", slow))

    mine = [file("acme" if n % 2 else "acme/shop-17", n) for n in range(40)]
    async with asyncio.timeout(180):
        while len(making) < OF_ONE:
            await asyncio.sleep(0.01)
        other = file("zeta", 0)
        while "zeta" not in making:
            await asyncio.sleep(0.01)
        refused = [t for t in mine if t.done()]
        assert len(refused) == 40 - OF_ONE - WAITING_OF_ONE
        for task in refused:
            error = task.exception()
            assert isinstance(error, Problem) and error.code == "rate_limited" and error.headers["Retry-After"] == "1"
        assert most[0] == OF_ONE + 1
        assert code_of(await shop.get(BALANCES)) == (429, "rate_limited")
        ends.set()
        assert await other == b"made"
        assert {await t for t in mine if t not in refused} == {b"made"} and most[0] <= THREADS
    assert (await shop.get(BALANCES)).status_code == 200
    assert not len(d.ground.reports._filing) and not len(d.ground.reports._asking)


@desk()
async def test_calls_that_come_in_after_the_bookings_are_shown(d: Desk) -> None:
    """They are measured beside the journal: no cut has them, so no answer with them is for ever."""
    day, calls = "/v1/reports/day", 0
    cut = (await d.bank.get(day)).headers["clearline-as-of"]
    first = await d.bank.get(day, params={"cut": cut})
    assert first.headers["cache-control"] == "private, max-age=1"
    db = Database(stored(d.ledger))
    db.run(
        "INSERT INTO calls (topic, minute, partner_id, calls, micros_max, buckets) "
        "SELECT 't', booked_at, 'acme', 7, 90, arrayMap(i -> toUInt64(if(i = 0, 7, 0)), range(61)) FROM outcomes LIMIT 1"
    )
    db.close()
    async with asyncio.timeout(180):
        while not calls:
            again = await d.bank.get(day, params={"cut": cut}, headers={"If-None-Match": first.headers["etag"]})
            calls = sum(r["calls"] for r in again.json()["rows"]) if again.status_code == 200 else 0
            await asyncio.sleep(0.01)
    assert calls == 7 and again.headers["etag"] != first.headers["etag"]


# ---- formats ---------------------------------------------------------------------------------------------------------


@desk()
async def test_formats_by_name_and_by_accept(d: Desk) -> None:
    media = dict(formats.CONTENT_TYPES)
    for name, kind in media.items():
        named = await d.acme.get(BALANCES, params={"format": name})
        accepted = await d.acme.get(BALANCES, headers={"Accept": kind.partition(";")[0]})
        assert named.headers["content-type"] == accepted.headers["content-type"] == kind
        assert named.content == accepted.content
        assert ("content-disposition" in named.headers) == (name != "json")
    rows = (await d.acme.get(BALANCES)).json()["rows"]
    frame = pl.read_parquet(io.BytesIO((await d.acme.get(BALANCES, params={"format": "parquet"})).content))
    assert frame.get_column("account").to_list() == [r["account"] for r in rows]
    assert [int(b) for b in frame.get_column("balance")] == [r["balance"] for r in rows]
    csv, json = media["csv"], media["json"]
    for header, kind in (
        ("text/csv;q=0.5, application/json;q=0.4", csv), ("text/csv;q=0, */*", json), ("text/html, */*;q=0.1", json),
        ("image/png", json), ("", json), ("text/csv;q=x", csv), ("application/json, text/csv", json), ("*/*, text/csv", json),
    ):  # fmt: skip
        answer = await d.acme.get(BALANCES, headers={"Accept": header})
        assert answer.headers["content-type"] == kind, header


# ---- limits ----------------------------------------------------------------------------------------------------------


@desk()
async def test_more_rows_or_time_than_allowed_is_a_clear_problem(d: Desk) -> None:
    few = GroundReports(d.ledger, rows_max=3)
    d.parts.reporting = few
    assert code_of(await d.bank.get(BALANCES)) == (422, "report_too_large")
    assert (await d.acme.get(BALANCES, params={"account": "acme:wallet:bob"})).status_code == 200  # it goes on
    await few.close()
    db = Database(stored(d.ledger), reader=True, seconds_max=1)
    with pytest.raises(TooMuchError, match=r"(?i)timeout"):
        db.rows("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1")
    with pytest.raises(TooMuchError, match="more than 10 rows"):
        db.rows("SELECT number FROM numbers(1000000000)", rows_max=10)
    assert db.rows("SELECT number FROM numbers(10)", rows_max=10)[-1] == (9,)
    db.close()


@desk(reports_per_minute=3)
async def test_reports_have_a_limit_of_their_own(d: Desk) -> None:
    now = [d.ledger.now_ms]
    gate = LocalGate(CallLimits(1_000.0, 5_000, 10**6), now_ms=lambda: now[0], reports=CallLimits(3 / 60, 3, 10**12))
    d.parts.gate = gate
    shop = d.client(d.key("acme/shop-17"))
    for left in (2, 1, 0):
        answer = await (d.acme if left else shop).get(BALANCES)  # of the root: all of its keys together
        assert answer.headers["ratelimit-policy"].endswith(', "reports";q=3;w=60')
        assert f'"reports";r={left};t=' in answer.headers["ratelimit"], answer.headers
    for path in (BALANCES, "/v1/data/top", "/v1/data/aggregates", "/v1/data/cash-flow/acme:wallet:bob"):
        over = await d.acme.get(path)
        assert code_of(over) == (429, "rate_limited") and int(over.headers["retry-after"]) == 20
    assert (await d.acme.get("/v1/reports")).status_code == 200  # the list, and everything else, goes on
    assert (await d.acme.get("/v1/accounts/acme:wallet:bob/balance")).status_code == 200
    assert (await d.zeta.get(BALANCES)).status_code == 200
    now[0] += 20_000
    assert (await d.acme.get(BALANCES)).status_code == 200


@desk()
async def test_clickhouse_away_is_unavailable_and_nothing_waits_for_it(d: Desk) -> None:
    away = Reports(ClickHouseConfig("127.0.0.1", 9, "none"))
    d.parts.reporting = away
    answer = await d.acme.get(BALANCES)
    assert code_of(answer) == (503, "unavailable") and answer.headers["retry-after"] == "1"
    assert (await d.acme.get("/v1/accounts/acme:wallet:bob/balance")).status_code == 200
    no_view = Reports(ClickHouseConfig("127.0.0.1", stored(d.ledger).port, "default"))
    d.parts.reporting = no_view
    assert code_of(await d.acme.get(BALANCES)) == (503, "unavailable")  # not migrated: not the asker's fault
    await no_view.close()
    await away.close()


def test_the_bank_names_whom_it_wants_and_no_key_of_it_does_more() -> None:
    report = CATALOGUE["balances"]
    assert [p.name for p in report.parameters if p.asked == "partner"] == ["partner"]

    @desk()
    async def run(d: Desk) -> None:
        for partner, owners in (
            ("zeta", {"zeta"}),
            ("bank", {"bank"}),
            ("acme/shop-17", {"acme/shop-17", "acme/shop-17/desk"}),
        ):
            rows = (await d.bank.get(BALANCES, params={"partner": partner})).json()["rows"]
            assert {r["account"].partition(":")[0] for r in rows} == owners
        for partner in ("nobody", "acme/nobody", "ACME", "bank/desk", "acme'"):
            assert code_of(await d.bank.get(BALANCES, params={"partner": partner})) == (404, "not_found"), partner
        assert (await d.bank.get("/v1/data/cash-flow/bank:funds:CNY")).status_code == 200
        assert code_of(await d.bank.get("/v1/data/aggregates", params={"join": "regions"})) == (422, "field_invalid")
        for path in ("/v1/data/tables", "/v1/accounts", "/v1/partner", "/v1/keys", "/v1/limits"):
            assert code_of(await d.bank.get(path)) == (403, "scope_missing"), path

    run()


# ---- partners' tables ------------------------------------------------------------------------------------------------

HOSTILE = (
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'; DROP TABLE tables; --", "\\", "\\'", "{known_at:String}", "%(x)s", "NULL",
    "\u202e\u0000".replace("\u0000", ""), "a,b", 'a"b', "<script>alert(1)</script>", "\U0001f600", "0x1F", "1e3", " lead ", "\u200b",
)  # fmt: skip


@desk()
async def test_one_partner_with_many_tables_leaves_turns_to_others(d: Desk) -> None:
    body = b"id,said\nk,v\n"
    shop = d.client(d.key("acme/shop-17"))
    mine = [d.put(f"many_{n}", body, by=shop if n % 2 else None) for n in range(20)]
    *answers, other = await asyncio.gather(*mine, d.put("other", body, by=d.zeta))
    assert other.status_code == 201
    codes = [a.status_code for a in answers]
    assert codes.count(201) == 1 + READING_MAX and codes.count(429) == 19 - READING_MAX
    assert (await d.put("again", body)).status_code == 201


def test_values_are_counted_in_bytes_and_not_in_characters() -> None:
    keys = [str(n) for n in range(uploads.BYTES_MAX // 4_096 + 1)]
    with pytest.raises(BadInputError, match="bytes of values"):
        uploads.checked(["id", "said"], [keys, ["\U0001f600" * 1_024] * len(keys)], "", len(keys))


@desk()
async def test_hostile_content_comes_back_as_it_was_and_does_nothing(d: Desk) -> None:
    lines = "".join(f'k{i},"{text.replace(chr(34), chr(34) * 2)}"\r\n' for i, text in enumerate(HOSTILE))
    assert (await d.put("hostile", ("\ufeffid,said\r\n" + lines).encode())).status_code == 201
    table = (await d.acme.get("/v1/data/tables/hostile")).json()
    assert {r["id"]: r["said"] for r in table["items"]} == {f"k{i}": text for i, text in enumerate(HOSTILE)}
    owners = "".join(
        f'{p},"{text.replace(chr(34), chr(34) * 2)}"\n'
        for p, text in zip(("acme", "acme/shop-17"), HOSTILE, strict=False)
    )
    assert (await d.put("owners", ("partner,said\n" + owners).encode())).status_code == 201
    joined = await d.acme.get("/v1/data/aggregates", params={"by": "", "join": "owners", "format": "csv"})
    assert joined.status_code == 200
    for line in joined.text.splitlines()[1:]:
        assert not line.lstrip('"').startswith(("=", "+", "-", "@"))


@desk(tables_max=2, table_rows_max=4, table_bytes_max=4096)
async def test_a_table_that_breaks_a_rule_changes_nothing(d: Desk) -> None:
    good = b"id,name\n1,one\n2,two\n"
    assert (await d.put("good", good)).status_code == 201
    floats, lists = io.BytesIO(), io.BytesIO()
    pl.DataFrame({"id": ["1"], "x": [0.1]}).write_parquet(floats)
    pl.DataFrame({"id": ["1"], "x": [[1]]}).write_parquet(lists)
    parquet = "application/vnd.apache.parquet"
    for body, media in (
        (b"", "text/csv"), (b"id\n", "text/csv"), (b"id,id\n1,2\n", "text/csv"), (b"id,name\n1\n", "text/csv"),
        (b"id,name\n1,a\n1,b\n", "text/csv"), (b"id,name\n,a\n", "text/csv"), (b"ID\n1\n", "text/csv"),
        (b"id;name\n1;2\n", "text/csv"), (b'id\n"1\n', "text/csv"), (b"id\n\xff\n", "text/csv"), (b"id\na\x00b\n", "text/csv"),
        (b'id\n"a\nb"\n', "text/csv"), (b"id\n1\n2\n3\n4\n5\n", "text/csv"), (b"id\n" + b"x" * 1_025, "text/csv"),
        (",".join(f"c{i}" for i in range(33)).encode() + b"\n", "text/csv"), (floats.getvalue(), parquet),
        (lists.getvalue(), parquet), (b"PAR1", parquet), (good, parquet), (floats.getvalue()[:-20], parquet),
    ):  # fmt: skip
        answer = await d.put("good", body, media)
        assert code_of(answer) == (422, "field_invalid"), (body[:40], answer.text)
        assert answer.json()["errors"][0]["field"] == "body"
    assert code_of(await d.put("good", good, "application/json")) == (415, "unsupported_media_type")
    assert code_of(await d.put("good", b"id\n" + b"x" * 5_000)) == (413, "body_too_large")
    for key in ("none", "", "ID", "id "):
        answer = await d.acme.put("/v1/data/tables/good", params={"key": key}, content=good,
                                  headers={"Content-Type": "text/csv", "Idempotency-Key": f"of-{key}"})  # fmt: skip
        assert code_of(answer) == (422, "field_invalid"), key
    for name in ("Good", "1good", "go-od", "a" * 33, "good%20", "good%3B--"):
        assert code_of(await d.put(name, good)) == (422, "field_invalid"), name
    assert code_of(await d.acme.put("/v1/data/tables/good", content=good, headers={"Content-Type": "text/csv"})) == (
        400, "idempotency_key_missing",
    )  # fmt: skip
    table = (await d.acme.get("/v1/data/tables/good")).json()
    assert (table["version"], table["items"]) == (1, [{"id": "1", "name": "one"}, {"id": "2", "name": "two"}])
    shop = d.client(d.key("acme/shop-17"))
    assert (await d.put("second", good, by=shop)).status_code == 201
    assert code_of(await d.put("third", good)) == (409, "tables_full")  # of the whole tree
    assert (await d.put("good", b"id\n9\n")).status_code == 201  # one in place of another is no more
    assert (await d.put("third", good, by=d.zeta)).status_code == 201


@desk()
async def test_a_table_is_replaced_at_once_and_its_versions_come_one_after_the_other(d: Desk) -> None:
    contents = [f"id,v\n1,{n}\n2,{n}\n".encode() for n in range(6)]
    seen: set[tuple[str, ...]] = set()
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            answer = await d.acme.get("/v1/data/tables/turns")
            if answer.status_code == 200:
                seen.add(tuple(r["v"] for r in answer.json()["items"]))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    answers = await asyncio.gather(*(d.put("turns", body) for body in contents))
    done.set()
    await looking
    assert sorted(a.json()["version"] for a in answers) == [1, 2, 3, 4, 5, 6]
    assert all(len(set(v)) == 1 and len(v) == 2 for v in seen), seen
    kept = await d.parts.tables.ask(lambda t: t._db.rows(
        "SELECT count() FROM system.tables WHERE database = %(d)s AND name != 'tables'", {"d": t._config.database},
    ))  # fmt: skip
    assert kept == [(2,)]  # the last, and the one before it for who is reading it


@desk()
async def test_a_write_that_was_cut_short_is_nothing_and_is_swept(d: Desk) -> None:
    config = stored(d.ledger)
    torn = Tables(config)

    def cut_short(_: Version) -> None:
        raise PartUnavailableError("ClickHouse", "test", "killed here")

    torn._note = cut_short  # type: ignore[method-assign,assignment]
    with pytest.raises(PartUnavailableError):
        torn.put("acme", "regions", "id", ("id",), (("1",),), "key", "k-torn")
    assert code_of(await d.acme.get("/v1/data/tables/regions")) == (404, "not_found")
    assert (await d.put("regions", b"id\n2\n", key="k-torn")).status_code == 201  # the same try again
    table = (await d.acme.get("/v1/data/tables/regions")).json()
    assert (table["version"], table["items"]) == (1, [{"id": "2"}])
    whole = Tables(config)
    assert len(_tables(whole)) == 2  # what was cut short an hour ago goes with the next write, and not before
    whole.close()
    torn.close()


def _tables(tables: Tables) -> list[str]:
    named = {"d": tables._config.database}
    return [
        n
        for (n,) in tables._db.rows("SELECT name FROM system.tables WHERE database = %(d)s AND name != 'tables'", named)
    ]


@desk()
async def test_the_same_key_again_is_the_same_write(d: Desk) -> None:
    one, other = b"id\n1\n", b"id\n2\n"
    first = await d.put("t", one, key="k-1")
    again = await d.put("t", one, key="k-1")
    assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
    assert code_of(await d.put("t", other, key="k-1")) == (422, "idempotency_conflict")
    assert code_of(await d.put("u", one, key="k-1")) == (422, "idempotency_conflict")
    same = await d.put("t", one, key="k-2")
    assert (same.status_code, same.json()) == (200, first.json())
    assert (await d.put("t", other, key="k-3")).json()["version"] == 2
    assert (await d.put("t", one, key="k-1")).json() == first.json()  # a late try of the first undoes nothing
    assert (await d.acme.get("/v1/data/tables/t")).json()["items"] == [{"id": "2"}]
    gone = [await d.acme.delete("/v1/data/tables/t", headers={"Idempotency-Key": k}) for k in ("k-4", "k-4", "k-5")]
    assert [g.status_code for g in gone] == [204, 204, 404]
    conflict = await d.acme.delete("/v1/data/tables/t", headers={"Idempotency-Key": "k-3"})
    assert code_of(conflict) == (422, "idempotency_conflict")
    assert (await d.acme.get("/v1/data/tables")).json()["items"] == []
    assert (await d.put("t", one, key="k-6")).json()["version"] == 4


@desk()
async def test_pages_of_a_table_are_of_one_version(d: Desk) -> None:
    body = io.BytesIO()
    pl.DataFrame({"name": [f"n{i}" for i in range(250)], "id": list(range(250))}).write_parquet(body)
    parquet = "application/vnd.apache.parquet"
    headers = {"Content-Type": parquet, "Idempotency-Key": "k-p"}
    put = await d.acme.put("/v1/data/tables/long", params={"key": "id"}, content=body.getvalue(), headers=headers)
    assert (put.status_code, put.json()["key"], put.json()["rows"]) == (201, "id", 250)
    items: list[dict[str, str]] = []
    page = (await d.acme.get("/v1/data/tables/long", params={"limit": "100"})).json()
    first = page["next_cursor"]
    while True:
        items += page["items"]
        if page["next_cursor"] is None:
            break
        page = (await d.acme.get("/v1/data/tables/long", params={"cursor": page["next_cursor"]})).json()
    assert sorted(items, key=lambda r: int(r["id"])) == [{"name": f"n{i}", "id": str(i)} for i in range(250)]
    assert code_of(await d.zeta.get("/v1/data/tables/long", params={"cursor": first})) == (404, "not_found")
    await d.put("long", b"id\n1\n")
    assert code_of(await d.acme.get("/v1/data/tables/long", params={"cursor": first})) == (400, "cursor_invalid")


@desk()
async def test_a_joined_answer_follows_the_table(d: Desk) -> None:
    query = {"by": "", "join": "regions", "cut": "0:20,1:10,2:10,3:10"}
    await d.put("regions", b"partner,region\nacme,north\n")
    first = await d.acme.get("/v1/data/aggregates", params=query)
    assert first.json()["parameters"]["join"] == "regions@1" and first.headers["cache-control"] == "private, max-age=1"
    await d.put("regions", b"partner,region\nacme,south\n")
    second = await d.acme.get("/v1/data/aggregates", params=query, headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.json()["parameters"]["join"]) == (200, "regions@2")
    await d.put("regions", b"partner,region\nzeta,secret\n", by=d.zeta)
    third = await d.acme.get("/v1/data/aggregates", params=query)
    assert third.content == second.content and b"secret" not in third.content


def test_partners_tables_are_not_in_the_ledgers_database() -> None:
    """It may be dropped, to be built again from the journal."""
    assert data_database("clearline_live") == "clearline_live_data"
    d = Desk()
    config = replace(stored(ledger_of(d.parts)), timeout_s=30.0)
    tables = Tables(config)
    tables.put("acme", "kept", "id", ("id",), (("1",),), "key", "k")
    db = Database(config, with_database=False)
    db.run(f"DROP DATABASE {config.database}")
    version = tables.current("acme", "kept")
    assert version is not None and tables.page(version, "", 10) == [("1",)]
    db.close()
    tables.close()


def test_a_problem_has_the_code_that_its_page_has() -> None:
    assert (Problem("report_too_large").status, Problem("tables_full").status) == (422, 409)
    assert isinstance(GroundTables(ledger_of(Desk().parts)), GroundTables)
