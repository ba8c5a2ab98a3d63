"""Traces without a system: what is followed, what the spans say, and that no value knows of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from clearline.config import load_settings
from clearline.roles import traced
from schemas.errors import BadInputError
from schemas.records import AdmitPartner, OpenAccount
from streams import traces
from streams.traces import HEADER, Traced, TraceOptions, followed, parent_of
from streams.traces_otel import OpenTelemetry
from tests.unit.test_settlement import World, transfer

PARENT = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (PARENT, PARENT), (PARENT[:-1] + b"3", PARENT[:-1] + b"3"),
        (PARENT[:-1] + b"0", b""), (None, b""), (b"", b""), (b"00-" + b"0" * 32 + PARENT[35:], b""),
        (PARENT[:36] + b"0" * 16 + b"-01", b""), (b"01" + PARENT[2:], b""), (PARENT + b"\n", b""), (PARENT.upper(), b""),
    ],
)  # fmt: skip
def test_only_what_is_sampled_and_well_formed_is_followed(value: bytes | None, wanted: bytes) -> None:
    assert parent_of([("reply_to", b"0"), (HEADER, value)]) == wanted
    assert parent_of(None) == b""


class Spans:
    """A tracer whose spans stay here."""

    def __init__(self, ratio: float = 1.0, *, believe: bool = False) -> None:
        self.kept = InMemorySpanExporter()
        self.traces = OpenTelemetry(
            TraceOptions("http://nowhere", ratio, believe, "live", "worker-3", "1.0"), self.kept
        )  # fmt: skip

    def named(self) -> dict[str, ReadableSpan]:
        assert self.traces._provider is not None
        self.traces._provider.force_flush()
        return {s.name: s for s in self.kept.get_finished_spans()}


def in_a_task(body: Callable[[], None]) -> None:
    async def task() -> None:
        body()

    asyncio.run(task())


@pytest.mark.parametrize("believe", [False, True])
def test_a_callers_trace_is_continued_only_where_that_is_said(believe: bool) -> None:
    spans = Spans(believe=believe)

    def one_call() -> None:
        span = spans.traces.call("POST", "/v1/transactions", [(b"traceparent", PARENT)])
        begun = spans.traces.publishing("live.transactions.submitted", b"\x01\x02")
        assert begun is not None and parent_of([(HEADER, begun[1])]) == begun[1]
        spans.traces.published(begun[0], 3, 17)
        spans.traces.answered(span, "/v1/transactions", 201)

    in_a_task(one_call)
    found = spans.named()
    call, publish = found["POST /v1/transactions"], found["publish"]
    assert publish.parent is not None and call.context is not None and publish.parent.span_id == call.context.span_id
    assert (call.parent is not None and call.parent.trace_id == int("ab" * 16, 16)) == believe
    assert [link.context.trace_id for link in call.links] == ([] if believe else [int("ab" * 16, 16)])
    assert publish.attributes == {
        "messaging.system": "kafka", "messaging.destination.name": "live.transactions.submitted",
        "clearline.command_id": "0102", "messaging.destination.partition.id": "3", "messaging.kafka.offset": 17,
    }  # fmt: skip
    assert call.resource.attributes["service.name"] == "clearline-worker"
    spans.traces.close()


def test_what_is_not_sampled_has_no_span_and_no_header() -> None:
    spans = Spans(ratio=0.0)

    def one_call() -> None:
        assert spans.traces.call("POST", "/v1/transactions", [(b"traceparent", PARENT)]) is None
        assert spans.traces.publishing("submitted", b"\x01") is None
        assert Spans().traces.call("GET", "/metrics", []) is None

    in_a_task(one_call)
    assert spans.named() == {}
    spans.traces.close()


def test_a_batch_has_a_span_that_those_of_its_commands_lead_to() -> None:
    spans, other = Spans(), PARENT.replace(b"ab", b"12")
    spans.traces.settled(1_000, 2_000, 3_000, 4_000, [Traced(0, 5, PARENT), Traced(1, 6, other)])
    spans.named()
    made = spans.kept.get_finished_spans()
    assert sorted(s.name for s in made) == ["journal commit"] * 2 + ["settle"] * 2 + ["settle batch"]
    batch = spans.named()["settle batch"]
    assert batch.context is not None and len(batch.links) == 2
    assert batch.attributes == {"clearline.batch.commands": 4_000}
    settles = [s for s in made if s.name == "settle"]
    assert {(s.start_time, s.end_time) for s in settles} == {(1_000, 2_000)}
    assert {s.links[0].context.span_id for s in settles} == {batch.context.span_id}
    assert {s.context.trace_id for s in settles if s.context} == {int("ab" * 16, 16), int("12" * 16, 16)}
    assert {(s.start_time, s.end_time) for s in made if s.name == "journal commit"} == {(2_000, 3_000)}
    spans.traces.close()


def ground(carries: str) -> World:
    """A world with two accounts, one of them with money."""
    made = World()
    made.settlement.carries = carries
    made.settle(
        AdmitPartner("bank", "a", "acme"),
        OpenAccount("bank", "b", "bank:clearing:CNY", "asset", "CNY"),
        OpenAccount("acme", "o1", "acme:w:1", "liability", "CNY", 0),
        OpenAccount("acme", "o2", "acme:w:2", "liability", "CNY", 0),
        transfer("fund", 1_000, "bank:clearing:CNY", "acme:w:1"),
    )
    return made


def test_the_journal_has_the_header_beside_it_and_the_same_value_without() -> None:
    came = [("reply_to", b"0"), (HEADER, PARENT), ("other", b"x")]
    values: list[Any] = []
    for carries, wanted in ((HEADER, [[(HEADER, PARENT)], None, None]), ("", [None] * 3)):
        w = ground(carries)
        before = len(w.of("journal"))
        too_long = [(HEADER, b"x" * 65)]
        w.batch([w.message(transfer("t1"), head=came), w.message(transfer("t2"), head=too_long),
                 w.message(transfer("t3"))])  # fmt: skip
        produced = w.of("journal")[before:]
        assert [more.get("headers") for *_, more in produced] == wanted
        values.append([value for _, value, *_ in produced])
        assert [t.parent for t in followed([w.message(None, head=came), w.message(None)])] == [PARENT]
    assert values[0] == values[1], "no value knows of it"


def test_a_program_with_opentelemetry_of_its_own_sees_what_it_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    monkeypatch.setattr(traces, "active", None)
    traces.follow_application()
    assert traces.active is not None
    at = traces.active
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def publish() -> Any:  # as the publisher does it: handed to its loop, and a task for the delivery
        async def deliver() -> Any:
            return at.publishing("submitted", b"\x01")

        return await asyncio.create_task(deliver())

    try:
        assert asyncio.run_coroutine_threadsafe(publish(), loop).result(10) is None, "nothing is followed here"
        with provider.get_tracer("theirs").start_as_current_span("checkout") as theirs:
            begun = asyncio.run_coroutine_threadsafe(publish(), loop).result(10)
        at.published(begun[0], 0, 7)
        assert f"{theirs.get_span_context().trace_id:032x}".encode() in parent_of([(HEADER, begun[1])])
        assert [s.name for s in kept.get_finished_spans()] == ["checkout", "publish"]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
        traces.switch_off()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the extra."""
    monkeypatch.delitem(sys.modules, "streams.traces_otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)


@pytest.mark.usefixtures("nothing_installed")
def test_without_the_extra_a_role_says_what_to_install_and_off_needs_nothing() -> None:
    with traced(load_settings(), "worker-0"):
        assert traces.active is None
    with (
        pytest.raises(BadInputError, match=r"opentelemetry is not installed: install the extra `clearline\[traces\]`"),
        traced(load_settings(traces={"endpoint": "http://127.0.0.1:1"}), "worker-0"),
    ):
        pass
    assert traces.active is None
