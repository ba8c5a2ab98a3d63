"""The console without a browser: who gets in, what a form may do, the stream, and what it costs that many watch."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request

from clearline import keys
from clearline.gateway.console import acts, tickets
from clearline.gateway.console.facts import Replay, Trouble
from clearline.gateway.console.stream import SESSION_ENDED, Stream
from clearline.gateway.console.tickets import LASTS_MS
from clearline.gateway.console.watch import VIEWERS_MAX
from clearline.gateway.finance import session as sessions
from clearline.gateway.twin import codec
from schemas.errors import PartUnavailableError
from schemas.records import AccessKey, OpenAccount, SetFreeze
from tests.console_page import Room, live_with, text_of, ticket_of
from tests.gateway import in_loop
from tests.sink_servers import wait_for

PAGES = (
    "/operations", "/operations/freeze", "/operations/freeze/done?key=x", "/operations/dead-letters",
    "/operations/freeze/confirm?level=world&note=x", "/operations/dead-letters/plan?what=redrive&reason=contract",
    "/operations/dead-letters/cancel?task=t1", "/operations/replays/cancel?replay=r1", "/operations/nowhere",
)  # fmt: skip
FORMS = (
    "/operations/freeze/do", "/operations/dead-letters/do", "/operations/dead-letters/cancel", "/operations/replays/cancel"
)  # fmt: skip
ALICE = "acme:wallet:alice"
MINUTE = 60_000


@pytest.fixture(scope="module")
def at() -> Iterator[Room]:
    room = Room()
    yield room
    room.stop()


@pytest.fixture
def inside(at: Room) -> Iterator[httpx.Client]:
    with at.signed_in() as client:
        yield client


def applied(at: Room, command: str) -> list[Any]:
    """The commands of this kind that the ledger applied, in their order, each once however many partitions it went to."""
    found = {r.command_id: r for r in at.ledger.journal if r.command == command and r.outcome == "applied"}
    return [at.ledger.command_at(r.source_partition, r.source_offset) for r in found.values()]


def frozen(at: Room) -> set[str]:
    return set(at.ledger.rows("f:"))


# ---- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_without_a_session_every_page_is_the_form(at: Room, path: str) -> None:
    with at.client() as client:
        for headers in ({}, {"Authorization": f"Bearer {at.key()}"}, {"Cookie": "clearline-operations=AAAA"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and 'action="/operations/sign-in"' in answer.text
            assert f'name="next" value="{html.escape(path)}"' in answer.text
        assert client.get("/operations/events").status_code == 401


def test_only_keys_of_the_staff_with_the_scope_open_it(at: Room) -> None:
    good = at.key()
    revoked = at.key("re.voked")
    row = keys.row_key(revoked.split("_")[1])
    key = at.parts.access.get(row)
    assert isinstance(key, AccessKey)
    at.parts.access.put(row, msgspec.structs.replace(key, revoked_at=1))
    finance = at.world.key("bank", ["reports"])
    refused = {
        "": 401, "no key": 401, good[:-1] + ("A" if good[-1] != "A" else "B"): 401, "live_" + good[5:]: 401,
        revoked: 403, finance: 403, at.world.key("acme"): 403,
    }  # fmt: skip
    for token, status in refused.items():
        with at.client() as client:
            answer = client.post("/operations/sign-in", data={"key": token, "next": "/operations"})
            assert answer.status_code == status and "set-cookie" not in answer.headers
            assert not token or token not in answer.text
    with at.client() as client:
        answer = client.post("/operations/sign-in", data={"key": f" {good}\n", "next": "https://elsewhere.example"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/operations")
        cookie = answer.headers["set-cookie"]
        assert {p.strip().lower() for p in cookie.split(";")[1:]} == {"httponly", "path=/operations", "samesite=strict"}
        assert all(part not in cookie for part in good.split("_", 2)[1:])


def test_a_session_of_another_door_opens_nothing(at: Room) -> None:
    both = at.world.key("bank", ["reports", "status"])
    with at.client() as client:
        assert client.post("/finance/sign-in", data={"key": both, "next": "/finance"}).status_code == 303
        text = client.cookies["clearline-finance"]
    with at.client() as client:
        assert client.get("/operations", headers={"Cookie": f"clearline-operations={text}"}).status_code == 401


def test_who_may_only_look_changes_nothing(at: Room) -> None:
    at.ledger.put_bytes(0, b"look only")
    with at.signed_in(at.key("looks.only", ("status",))) as client:
        page = client.get("/operations")
        assert page.status_code == 200 and 'class="looks-only"' in page.text
        for path in (PAGES[4], PAGES[5], PAGES[6], PAGES[7]):
            answer = client.get(path)
            assert (answer.status_code, "lacks the scope operate" in answer.text) == (403, True), path
            assert "ticket" not in answer.text
        for path in FORMS:
            assert client.post(path, data={"ticket": "x"}).status_code == 403
    with pytest.raises(keys.KeyFieldError, match="holder"):
        at.key("", ("operate",))


def test_every_answer_is_private_and_lets_nothing_in(at: Room, inside: httpx.Client) -> None:
    for path in (*PAGES, "/operations/console.js", "/operations/console.css"):
        answer = inside.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert ("no-store" in answer.headers["cache-control"]) == (not path.endswith((".js", ".css")))
        assert not re.search(r"<script(?! src=)|style=|\son[a-z]+=", answer.text) or path.endswith((".js", ".css"))


# ---- forms -------------------------------------------------------------------------------------------------------------


def confirm(
    client: httpx.Client, level: str, subject: str = "", lift: str = "", note: str = "fraud case 7"
) -> httpx.Response:
    query = {"level": level, "subject": subject, "note": note, "lift": lift}
    return client.get("/operations/freeze/confirm", params=query)


def test_a_freeze_takes_a_second_person_and_is_done_once(at: Room, inside: httpx.Client) -> None:
    page = confirm(inside, "account", ALICE)
    assert page.status_code == 200 and f"Freeze account {ALICE}" in text_of(page)
    sealed = ticket_of(page)
    before = len(applied(at, "SetFreeze"))
    wrong = {
        at.key(): "who is signed in", at.key("LI.WEI".lower()): "who is signed in",
        at.key("zhang.min", ("status",)): "lacks the scope operate", at.world.key("acme"): "Only keys of the bank",
        "nothing": "not known here", "": "not known here",
    }  # fmt: skip
    for token, said in wrong.items():
        answer = inside.post("/operations/freeze/do", data={"ticket": sealed, "second_key": token})
        assert answer.status_code == 403 and said in text_of(answer), token[:6]
        assert ticket_of(answer) == sealed and 'aria-invalid="true"' in answer.text
    assert len(applied(at, "SetFreeze")) == before and frozen(at) == set()
    second = at.key("zhang.min")
    answers: list[httpx.Response] = []

    def send() -> None:  # a double click
        form = {"ticket": sealed, "second_key": second}
        cookies = dict(inside.cookies)
        answers.append(httpx.post(f"{at.url}/operations/freeze/do", data=form, cookies=cookies, timeout=30))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {a.status_code for a in answers} == {303} and len({a.headers["location"] for a in answers}) == 1
    third = inside.post("/operations/freeze/do", data={"ticket": sealed, "second_key": at.key("wang.fang")})
    assert third.headers["location"] == answers[0].headers["location"], (
        "what stands was done by the first second person"
    )
    done = inside.get(third.headers["location"])
    assert "Done" in text_of(done) and "applied" in text_of(done)
    found = applied(at, "SetFreeze")[before:]
    assert [(c.level, c.subject_id, c.frozen, c.requested_by, c.approved_by, c.note) for c in found] == [
        ("account", ALICE, True, "li.wei", "zhang.min", "fraud case 7")
    ]
    board = live_with(inside, ALICE)
    assert f"account {ALICE} li.wei zhang.min" in board and f"freeze account {ALICE} li.wei zhang.min" in board
    lifted = inside.post(
        "/operations/freeze/do",
        data={"ticket": ticket_of(confirm(inside, "account", ALICE, "yes")), "second_key": second},
    )
    assert lifted.status_code == 303 and frozen(at) == set()


@pytest.mark.parametrize(("level", "subject"), [("partner", "acme/shop-17"), ("product", "wallet"), ("world", "")])
def test_every_level_is_frozen_and_lifted(at: Room, inside: httpx.Client, level: str, subject: str) -> None:
    for lift, expected in (("", 1), ("yes", 0)):
        sealed = ticket_of(confirm(inside, level, subject, lift))
        answer = inside.post("/operations/freeze/do", data={"ticket": sealed, "second_key": at.key("zhang.min")})
        assert answer.status_code == 303
        assert "Done" in text_of(inside.get(answer.headers["location"]))
        assert len([k for k in frozen(at) if k.startswith(f"f:{level}:")]) == expected


def done_page(at: Room, client: httpx.Client, level: str, subject: str, lift: str = "") -> tuple[str, str]:
    """What is said of a freeze when it was given, and where it is said."""
    sealed = ticket_of(confirm(client, level, subject, lift))
    answer = client.post("/operations/freeze/do", data={"ticket": sealed, "second_key": at.key("zhang.min")})
    return text_of(client.get(answer.headers["location"])), answer.headers["location"]


def test_a_freeze_that_one_partition_has_not_come_to_is_not_called_done(
    at: Room, inside: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "WAIT_S", 0.2)
    at.ledger.stopped = {2}
    try:
        told, place = done_page(at, inside, "product", "wallet")
        assert "Not everywhere yet" in told and "does not hold in partition 2:" in told and "Done" not in told
        assert "Frozen now in 3 of 4 partitions: 0, 1, 3" in told
        assert "product wallet not yet in partition 2" in live_with(inside, "not yet in partition")
    finally:
        at.ledger.stopped = set()
        at.ledger.run()
    assert "Done" in text_of(inside.get(place))
    assert "Done" in done_page(at, inside, "product", "wallet", "yes")[0] and not frozen(at)


def test_an_account_of_the_bank_is_frozen_where_it_has_shards(at: Room, inside: httpx.Client) -> None:
    drawer = OpenAccount("bank", "open-drawer", "bank:drawer:CNY", "asset", "CNY", None)
    at.ledger.put_bytes(1, codec().encode(drawer), b"bank")
    told = done_page(at, inside, "account", "bank:drawer:CNY")[0]
    assert "Done" in told and "Frozen now in 1 of 4 partitions: 1" in told
    told = done_page(at, inside, "account", "bank:drawer:CNY", "yes")[0]
    assert "Done" in told and "Frozen now in 0 of 4 partitions" in told
    for lift in ("", "yes"):
        told = done_page(at, inside, "account", "bank:drawers:CNY", lift)[0]
        assert "Refused by the ledger" in told and "account_unknown" in told


def test_what_cannot_be_is_told_in_words(at: Room, inside: httpx.Client) -> None:
    for level, subject, note, said in (
        ("account", "nonsense", "x", "is the name of no account"), ("partner", "", "x", "is the name of no partner"),
        ("planet", "x", "x", "Level: must be one of"), ("product", "wallet", "", "Why: must be said"),
        ("product", "wallet", "x" * 501, "Why: must be said"),
    ):  # fmt: skip
        answer = confirm(inside, level, subject, note=note)
        assert answer.status_code == 400 and said in text_of(answer)
    sealed = ticket_of(confirm(inside, "account", "acme:wallet:nobody"))
    answer = inside.post("/operations/freeze/do", data={"ticket": sealed, "second_key": at.key("zhang.min")})
    told = text_of(inside.get(answer.headers["location"]))
    assert "Refused by the ledger" in told and "account_unknown" in told
    assert "Nothing is known of this act" in text_of(inside.get("/operations/freeze/done?key=console-nothing"))


def test_a_broker_that_is_away_leaves_the_form_as_it_was(at: Room, inside: httpx.Client) -> None:
    sealed = ticket_of(confirm(inside, "product", "wallet"))
    form = {"ticket": sealed, "second_key": at.key("zhang.min")}
    at.ledger.down = True
    try:
        answer = inside.post("/operations/freeze/do", data=form)
    finally:
        at.ledger.down = False
    assert answer.status_code == 503 and "Send it again" in text_of(answer) and ticket_of(answer) == sealed
    assert frozen(at) == set()
    assert inside.post("/operations/freeze/do", data=form).status_code == 303
    assert frozen(at) == {"f:product:wallet"}
    form["ticket"] = ticket_of(confirm(inside, "product", "wallet", "yes"))
    assert inside.post("/operations/freeze/do", data=form).status_code == 303


def test_the_outcome_is_found_in_the_journal_by_another_gateway(at: Room, inside: httpx.Client) -> None:
    command = SetFreeze("bank", "console-elsewhere", "product", "wallet", False, "li.wei", "x", "zhang.min")
    at.ledger.must(command)
    assert "applied" in text_of(inside.get("/operations/freeze/done?key=console-elsewhere"))


def test_a_form_of_another_page_person_or_time_is_not_taken(at: Room, inside: httpx.Client) -> None:
    sealed = ticket_of(confirm(inside, "account", ALICE))
    form = {"ticket": sealed, "second_key": at.key("zhang.min")}
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://elsewhere.example"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert inside.post("/operations/freeze/do", data=form, headers=headers).status_code == 403
    for wrong in (sealed[:-2], sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:], "", "x" * 9000):
        answer = inside.post("/operations/freeze/do", data={**form, "ticket": wrong})
        assert answer.status_code == 400 and "Begin again" in text_of(answer)
    assert inside.post("/operations/dead-letters/do", data={**form, "note": "x", "rate": "500"}).status_code == 400
    with at.signed_in(at.key("wang.fang")) as other:
        assert other.post("/operations/freeze/do", data=form).status_code == 400
    at.ledger.advance(LASTS_MS + 1_000)
    assert inside.post("/operations/freeze/do", data=form).status_code == 400
    assert inside.post("/operations/freeze/do", content=b"{}").status_code == 400
    assert frozen(at) == set() and tickets.LASTS_MS == 10 * MINUTE


def test_guesses_of_a_second_key_are_counted(at: Room) -> None:
    room = Room(gateway={"burst": 40})
    try:
        room.world.parts.gate.burst = 40  # type: ignore[attr-defined]
        with room.signed_in() as client:
            sealed = ticket_of(confirm(client, "account", ALICE))
            statuses = [
                client.post("/operations/freeze/do", data={"ticket": sealed, "second_key": "guess"}).status_code
                for _ in range(25)
            ]
        assert statuses.count(403) <= 20 and statuses[-1] == 429
        with room.signed_in(room.key("zhang.min")) as client:  # behind a proxy all come from one address
            form = {"ticket": ticket_of(confirm(client, "account", ALICE)), "second_key": "guess"}
            assert client.post("/operations/freeze/do", data=form).status_code == 403, (
                "nobody else is kept from freezing"
            )
    finally:
        room.stop()


# ---- dead letters and replays --------------------------------------------------------------------------------------------


def test_dead_letters_are_planned_and_put_back_once(at: Room, inside: httpx.Client) -> None:
    for n in range(3):
        at.ledger.put_bytes(1, b"redrive me %d" % n)
    page = inside.get("/operations/dead-letters?reason=not_framed")
    assert "not_framed" in text_of(page) and "Redrive" in text_of(page)
    link = re.search(r'href="(/operations/dead-letters/plan\?what=redrive[^"]+)"', page.text)
    assert link is not None
    plan = inside.get(html.unescape(link[1]))
    count = int(re.search(r"Redrive (\d+) dead letters", text_of(plan))[1])  # type: ignore[index]
    assert count >= 3
    form = {"ticket": ticket_of(plan), "note": "the registry knows it now", "rate": "500"}
    for wrong, said in (({"note": " "}, "Why: must be said"), ({"rate": "7"}, "Letters a second: must be one of")):
        answer = inside.post("/operations/dead-letters/do", data={**form, **wrong})
        assert answer.status_code == 400 and said in text_of(answer) and ticket_of(answer) == form["ticket"]
    acts = len(applied(at, "OperatorAct"))
    twice = [inside.post("/operations/dead-letters/do", data=form) for _ in range(2)]
    assert {a.status_code for a in twice} == {303} and len({a.headers["location"] for a in twice}) == 1
    assert len(applied(at, "OperatorAct")) == acts + 1
    told = text_of(inside.get(twice[0].headers["location"]))
    assert f"done, {count} of {count} moved" in told and "the registry knows it now" in told
    assert " 2 " in told, "what died again has an attempt more"
    at.ledger.put_bytes(1, b"one more")
    again = inside.get(html.unescape(link[1]))
    at.ledger.put_bytes(1, b"and another, after it was planned")
    stale = inside.post("/operations/dead-letters/do", data={**form, "ticket": ticket_of(again)})
    assert stale.status_code == 409 and "others by now" in text_of(stale)
    answer = inside.get("/operations/dead-letters/plan?what=keep&reason=contract")
    assert answer.status_code == 400 and "redrive, discard" in text_of(answer)


def test_what_runs_can_be_cancelled(at: Room, inside: httpx.Client) -> None:
    at.ledger.put_bytes(1, b"discard me")
    at.console.tasks_paused = True
    try:
        plan = inside.get("/operations/dead-letters/plan?what=discard&reason=not_framed")
        form = {"ticket": ticket_of(plan), "note": "test records", "rate": "50"}
        begun = inside.post("/operations/dead-letters/do", data=form).headers["location"]
    finally:
        at.console.tasks_paused = False
    assert "running" in text_of(inside.get(begun))
    link = re.search(r'href="(/operations/dead-letters/cancel\?task=[^"]+)"', inside.get(begun).text)
    assert link is not None
    sealed = ticket_of(inside.get(link[1]))
    answer = inside.post("/operations/dead-letters/cancel", data={"ticket": sealed, "note": "wrong reason"})
    assert answer.status_code == 303 and "cancelled" in text_of(inside.get(answer.headers["location"]))
    assert at.console.stopped[-1][1:] == ("li.wei", "wrong reason"), "who asked, and why, is kept"
    at.console.replays.append(Replay("r-7", "replay", "partner acme", "running", 40, 100, 0, 0, "li.wei", "zhang.min"))
    assert "Replay r-7 (partner acme): running, 40 of 100 records" in live_with(inside, "r-7")
    sealed = ticket_of(inside.get("/operations/replays/cancel?replay=r-7"))
    assert inside.post("/operations/replays/cancel", data={"ticket": sealed, "note": ""}).status_code == 400
    assert inside.post("/operations/replays/cancel", data={"ticket": sealed, "note": "wrong cut"}).status_code == 303
    assert at.console.replays[-1].state == "cancelled"
    assert inside.post("/operations/replays/cancel", data={"ticket": sealed, "note": "again"}).status_code == 400


# ---- the stream ----------------------------------------------------------------------------------------------------------


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_the_stream_tells_what_changed_and_nothing_else(at: Room, inside: httpx.Client) -> None:
    with inside.stream("GET", "/operations/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        told = events_of(answer.iter_lines())
        name, first = next(told)
        assert name == "board" and {"now", "flow", "partitions", "roles"} <= set(first["sections"])
        at.console.ill["worker-1"] = "silent for 12 s"
        at.console.troubles.append(
            Trouble("stuck_consumer", "critical", "worker-1 hangs", "", "kill -9 7", "docs/OPERATING.md#stuck-consumer")
        )
        try:
            seen: dict[str, str] = {}
            while "incidents" not in seen:
                _, more = next(told)
                seen |= more["sections"]
        finally:
            at.console.ill.clear()
            at.console.troubles.clear()
        assert "worker-1 hangs" in seen["incidents"] and "kill -9 7" in seen["incidents"]
        assert "silent for 12 s" in seen["roles"] and "1 of 2 ready" in seen["flow"]
        assert "dead" not in seen and "tieout" not in seen, "nothing of these has changed"


def test_a_stream_counts_by_how_soon_it_began(at: Room, inside: httpx.Client) -> None:
    """A page that is watched for hours is no call that took hours."""
    name = 'clearline_gateway_call_seconds_%s{method="GET",route="/operations/events"}'

    def figure(kind: str) -> float:
        found = re.search(re.escape(name % kind) + r" (\S+)", inside.get("/metrics").text)
        return float(found[1]) if found is not None else 0.0

    wait_for("nobody to watch", lambda: at.watch.viewers == 0)
    seconds, count, began = figure("sum"), figure("count"), time.monotonic()
    with inside.stream("GET", "/operations/events") as answer:
        told, opened = events_of(answer.iter_lines()), time.monotonic()
        while time.monotonic() - opened < 2:
            next(told)
    whole = time.monotonic() - began
    wait_for("the stream to be counted", lambda: figure("count") > count)
    assert figure("sum") - seconds < whole - 1.9


def test_a_look_that_fails_is_told_and_the_next_one_follows(at: Room, inside: httpx.Client) -> None:
    with inside.stream("GET", "/operations/events") as answer:
        told = events_of(answer.iter_lines())
        next(told)
        at.console.fails = PartUnavailableError("Kafka", "nowhere", "no broker")
        _, more = next(e for e in told if e[1]["error"])
        assert "no broker" in more["error"] and more["sections"] == {}
        at.console.fails = None
        assert next(e for e in told if not e[1]["error"])


def test_many_who_watch_cost_one_look_and_there_are_not_too_many(at: Room, inside: httpx.Client) -> None:
    watch = at.watch
    wait_for("nobody to watch", lambda: watch.viewers == 0)
    streams = []
    try:
        for _ in range(VIEWERS_MAX):
            request = inside.build_request("GET", "/operations/events")
            streams.append(inside.send(request, stream=True))
        wait_for("all to watch", lambda: watch.viewers == VIEWERS_MAX)
        refused = inside.get("/operations/events")
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert inside.get("/operations").status_code == 200
        looks, shown = at.console.looked, watch.shown
        wait_for("three pictures", lambda: watch.shown >= shown + 3)
        assert at.console.looked - looks <= watch.shown - shown + 1, "a picture is one look, whoever watches"
    finally:
        for s in streams:
            s.close()
    wait_for("nobody to watch", lambda: watch.viewers == 0)
    wait_for("the looking to end", watch._task.done)


def test_a_stream_ends_with_its_session(at: Room) -> None:
    for end in ("idle", "revoked", "signed out"):
        key = at.key()
        with at.signed_in(key) as client, client.stream("GET", "/operations/events") as answer:
            told = events_of(answer.iter_lines())
            next(told)
            if end == "idle":
                at.ledger.advance(sessions.IDLE_MS + 1_000)
            elif end == "revoked":
                row = keys.row_key(key.split("_")[1])
                held = at.parts.access.get(row)
                assert isinstance(held, AccessKey)
                at.parts.access.put(row, keys.revoke(held, at.parts.now_ms()))
            else:
                httpx.post(f"{at.url}/operations/sign-out", cookies=dict(client.cookies))
            last = list(told)[-1]
        assert last == ("ended", {"text": SESSION_ENDED}), end


def test_a_stream_that_comes_again_by_itself_keeps_no_session(at: Room, inside: httpx.Client) -> None:
    at.ledger.advance(2 * MINUTE)
    for headers, kept in (({"Last-Event-ID": "7"}, False), ({}, True)):
        with inside.stream("GET", "/operations/events", headers=headers) as answer:
            assert ("set-cookie" in answer.headers) == kept


def test_a_gateway_that_stops_ends_its_streams() -> None:
    room = Room()
    with room.signed_in() as client, client.stream("GET", "/operations/events") as answer:
        told = events_of(answer.iter_lines())
        next(told)
        began = time.monotonic()
        room.stop()
        list(told)  # it ends, and not by a broken connection
        assert time.monotonic() - began < 8


@in_loop
async def test_a_viewer_who_takes_nothing_is_let_go() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: x\n\n"
        finally:
            ended.set()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    sent = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    stream = Stream(endless(), stalled_s=0.05)
    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "path": "/", "headers": []}
    assert Request(scope)
    async with asyncio.timeout(5):
        await stream(scope, receive, send)
        await ended.wait()
    assert len(sent) == 4
