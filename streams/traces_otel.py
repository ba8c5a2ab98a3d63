"""Traces by OpenTelemetry. The only module that imports it, and imported only when tracing is switched on.

Roles bring its SDK and an exporter with them, from the extra `traces`; a program that publishes through ours and has
OpenTelemetry of its own needs its API alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import context as contexts
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    get_tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.traces import HEADER, Traced, TraceOptions

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_FORMAT = TraceContextTextMapPropagator()
_SENT_WITHIN_MS = 2_000
_NOT_FOLLOWED = frozenset(("/healthz", "/readyz", "/metrics"))


class OpenTelemetry:
    """See `streams.traces.Traces`. `options` None: spans are those of the program that this runs in, and go where its
    own go."""

    def __init__(self, options: TraceOptions | None, exporter: SpanExporter | None = None) -> None:
        self._believe_callers = options is None or options.believe_callers
        self._provider = _provider(options, exporter) if options is not None else None
        self._tracer = self._provider.get_tracer("clearline") if self._provider else get_tracer("clearline")

    def call(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Any:
        if path in _NOT_FOLLOWED:
            return None
        given = next((v.decode("latin-1") for k, v in headers if k == b"traceparent"), "")
        told = _FORMAT.extract({HEADER: given}) if given else contexts.Context()
        links = None
        if given and not self._believe_callers:
            from_there = get_current_span(told).get_span_context()
            links = [Link(from_there)] if from_there.is_valid else None
            told = contexts.Context()
        span = self._tracer.start_span(
            method, told, SpanKind.SERVER, {"http.request.method": method, "url.path": path}, links
        )
        if not span.is_recording():
            return None
        # The task ends with the call, and its context with it: nothing has to be put back.
        contexts.attach(set_span_in_context(span))
        return span

    def answered(self, span: Span, route: str, status: int) -> None:
        span.update_name(f"{span.name} {route}")  # type: ignore[attr-defined]
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def publishing(self, topic: str, command_id: bytes) -> tuple[Any, bytes] | None:
        if not get_current_span().is_recording():
            return None
        span = self._tracer.start_span(
            "publish", kind=SpanKind.PRODUCER,
            attributes={"messaging.system": "kafka", "messaging.destination.name": topic,
                        "clearline.command_id": command_id.hex()},
        )  # fmt: skip
        carrier: dict[str, str] = {}
        _FORMAT.inject(carrier, set_span_in_context(span))
        return span, carrier[HEADER].encode()

    def published(self, span: Span, partition: int, offset: int, error: str = "") -> None:
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        else:
            span.set_attributes(_place(partition, offset))
        span.end()

    def settled(self, began: int, settled: int, committed: int, commands: int, followed: Sequence[Traced]) -> None:
        batch, links = self._batch("settle batch", began, {"clearline.batch.commands": commands}, followed)
        for t in followed:
            context = _context(t.parent)
            span = self._tracer.start_span(
                "settle", context, SpanKind.CONSUMER, _place(t.partition, t.offset), links, start_time=began
            )
            span.end(settled)
            commit = self._tracer.start_span("journal commit", set_span_in_context(span), start_time=settled)
            commit.end(committed)
        batch.end(committed)

    def inserted(self, began: int, ended: int, records: int, followed: Sequence[Traced]) -> None:
        batch, links = self._batch("insert batch", began, {"clearline.batch.records": records}, followed)
        for t in followed:
            attributes = {**_place(t.partition, t.offset), "db.system.name": "clickhouse"}
            span = self._tracer.start_span(
                "clickhouse insert", _context(t.parent), SpanKind.CONSUMER, attributes, links, start_time=began
            )
            span.end(ended)
        batch.end(ended)

    def _batch(
        self, name: str, began: int, attributes: dict[str, Any], followed: Sequence[Traced]
    ) -> tuple[Span, list[Link]]:
        """The span of a whole batch, and the link to it. It stands in the trace of the first that is followed, and
        links to all of them: so each of them leads to those it shared a batch with."""
        links = [Link(get_current_span(_context(t.parent)).get_span_context()) for t in followed]
        batch = self._tracer.start_span(name, _context(followed[0].parent), SpanKind.INTERNAL, attributes, links, began)
        return batch, [Link(batch.get_span_context())]

    def close(self) -> None:
        if self._provider is not None:
            self._provider.force_flush(_SENT_WITHIN_MS)
            self._provider.shutdown()


def _provider(options: TraceOptions, exporter: SpanExporter | None) -> TracerProvider:
    """The SDK for a role. `exporter`: where spans go; by default to the collector of the options."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create({
        "service.name": "clearline-" + re.sub(r"-\d+$", "", options.role),
        "service.instance.id": options.role, "service.version": options.version, "clearline.world": options.world,
    })  # fmt: skip
    made = TracerProvider(
        resource=resource, sampler=ParentBased(TraceIdRatioBased(options.ratio)), shutdown_on_exit=False
    )
    to = exporter or OTLPSpanExporter(endpoint=options.endpoint.rstrip("/") + "/v1/traces", timeout=5)
    made.add_span_processor(BatchSpanProcessor(to, schedule_delay_millis=1_000))
    return made


def _context(parent: bytes) -> contexts.Context:
    return _FORMAT.extract({HEADER: parent.decode("ascii")}, contexts.Context())


def _place(partition: int, offset: int) -> dict[str, Any]:
    return {"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset}
