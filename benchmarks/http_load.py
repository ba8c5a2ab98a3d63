"""The load over HTTP: transactions from one seed, sent to gateways by a process of its own, in an open loop.

The client is as lean as it can be made without giving up HTTP: keep-alive connections, requests that are built before
they are due, answers that are parsed by httptools and looked into after the last one. It adds a connection whenever all
are waiting, so a slow answer never delays the next request. What it costs is measured against an endpoint that does
nothing. Times are CLOCK_MONOTONIC.

It runs as `python -m benchmarks http JSON`, see `HttpJob`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

from benchmarks.load import Plan

WAIT_S = 20
_TEMPLATES = 4_096
_DRAIN_S = 30.0
_CONNECTIONS_FIRST = 32


@dataclass(frozen=True, slots=True)
class HttpJob:
    """What one load process does. `kind`: single, batch or noop; `urls`: of gateways, taken in turn; `tokens`: the
    credential of each partner; `rate`: requests a second; `batch`: transactions of a request of kind batch.

    The first `warm_up` requests are not counted.
    """

    kind: str
    urls: list[str]
    tokens: dict[str, str]
    plan: dict[str, Any] = field(default_factory=dict)
    tag: str = "http"
    rate: float = 100.0
    number: int = 100
    warm_up: int = 0
    batch: int = 100


@dataclass(slots=True)
class Answer:
    """One request: its place in the schedule, when it was answered, with what. Status 0: not at all."""

    number: int
    at: float = 0.0
    status: int = 0
    body: bytes = b""


class _Connection(asyncio.Protocol):
    """One keep-alive connection, and the request that it carries."""

    def __init__(self, idle: list[_Connection], done: Callable[[Answer], None]) -> None:
        self._idle, self._done = idle, done
        self._transport: Any = None
        self._answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, answer: Answer, request: bytes) -> None:
        """Sends a request whose answer goes into `answer`."""
        self._answer = answer
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        assert answer is not None
        answer.at, answer.status, answer.body = time.monotonic(), self._parser.get_status_code(), b"".join(self._body)
        self._body.clear()
        if self._parser.should_keep_alive():
            self._idle.append(self)
        else:
            self._transport.close()
        self._done(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._answer is not None:  # the gateway is gone, and with it the answer
            answer, self._answer = self._answer, None
            self._done(answer)


class _Client:
    """Sends requests at their times, each on a connection that is idle or new."""

    def __init__(self, url: str, number: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.answers: list[Answer] = []
        self.ended = asyncio.Event()
        self._number = number

    async def open(self, number: int) -> None:
        """Opens connections ahead."""
        for _ in range(number):
            self._idle.append(await self._connect())

    async def _connect(self) -> _Connection:
        self.connections += 1
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: _Connection(self._idle, self._done), self._host, self._port)
        return made

    def send(self, number: int, request: bytes) -> None:
        answer = Answer(number)
        if self._idle:
            self._idle.pop().send(answer, request)
            return
        task = asyncio.get_running_loop().create_task(self._send_on_new(answer, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_on_new(self, answer: Answer, request: bytes) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self._done(answer)
            return
        connection.send(answer, request)

    def _done(self, answer: Answer) -> None:
        self.answers.append(answer)
        if len(self.answers) >= self._number:
            self.ended.set()


class _Requests:
    """The bytes of each request: bodies are made before, only the key is put in."""

    def __init__(self, job: HttpJob) -> None:
        plan = Plan(**job.plan)
        self._job = job
        self._heads: list[bytes] = []
        self._bodies: list[bytes] = []
        host = urlsplit(job.urls[0]).netloc
        if job.kind == "noop":
            self._heads.append(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n".encode())
            self._bodies.append(b"")
            return
        path = "/v1/transactions:batch" if job.kind == "batch" else "/v1/transactions"
        by_partner: dict[str, list[dict[str, Any]]] = {}
        for t in plan.transactions(_TEMPLATES):
            document = {
                "product": t.product, "operation": t.operation, "amount": t.amount, "currency": t.currency,
                "accounts": dict(t.accounts), "reference": t.reference, "metadata": dict(t.metadata),
            }  # fmt: skip
            by_partner.setdefault(t.partner_id, []).append(document)
        for partner_id, documents in by_partner.items():
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {job.tokens[partner_id]}\r\n"
                f"Content-Type: application/json\r\nPrefer: wait={WAIT_S}\r\n"
            ).encode()
            for i in range(len(documents) if job.kind == "single" else max(1, len(documents) // job.batch)):
                whole: Any = documents[i]
                if job.kind == "batch":
                    some = [documents[(i * job.batch + j) % len(documents)] for j in range(job.batch)]
                    whole = {"transactions": some}
                self._heads.append(head)
                self._bodies.append(json.dumps(whole, separators=(",", ":")).encode())
        # Partners in turn, so that every partition has its share of every moment.
        order = sorted(range(len(self._heads)), key=lambda i: (i * 2_654_435_761) & 0xFFFFFFFF)
        self._heads = [self._heads[i] for i in order]
        self._bodies = [self._bodies[i] for i in order]

    def of(self, number: int) -> bytes:
        i = number % len(self._heads)
        if self._job.kind == "noop":
            return self._heads[i] + b"\r\n"
        key = f"{self._job.tag}-{number:09d}".encode()
        body = self._bodies[i]
        return b"%bIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n%b" % (self._heads[i], key, len(body), body)


def serve(job: dict[str, Any], hear: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Does the job; figures of it."""
    return uvloop.run(_serve(HttpJob(**job), hear))


async def _serve(job: HttpJob, hear: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    requests = _Requests(job)
    shares = [len(range(i, job.number, len(job.urls))) for i in range(len(job.urls))]
    clients = [_Client(url, share) for url, share in zip(job.urls, shares, strict=True)]
    for client in clients:
        await client.open(_CONNECTIONS_FIRST)
    start_at = float(hear()["start_at"])
    gc.collect()
    gc.freeze()
    gc.disable()
    used = time.process_time()
    late = await _send(job, requests, clients, start_at)
    try:
        async with asyncio.timeout(WAIT_S + _DRAIN_S):
            for client in clients:
                await client.ended.wait()
    except TimeoutError:
        pass
    used = time.process_time() - used
    answers = [a for client in clients for a in client.answers]
    return {
        **_figures(job, answers, start_at),
        "late_ms_p99": _quantile(sorted(late), 0.99),
        "client_us_per_request": round(used / max(1, len(answers)) * 1e6),
        "connections": sum(c.connections for c in clients),
    }


async def _send(job: HttpJob, requests: _Requests, clients: list[_Client], start_at: float) -> list[float]:
    """Sends request n at `start_at + n / rate`, however late those before it are; how late each was, in ms."""
    late: list[float] = []
    clock, number, rate = time.monotonic, job.number, job.rate
    n = 0
    while n < number:
        now = clock()
        while n < number and start_at + n / rate <= now:
            late.append((now - start_at - n / rate) * 1e3)
            clients[n % len(clients)].send(n, requests.of(n))
            n += 1
        if n < number:
            await asyncio.sleep(max(0.0, start_at + n / rate - clock()))
    return late


def _figures(job: HttpJob, answers: list[Answer], start_at: float) -> dict[str, Any]:
    """Latencies from when each request was due, and what the answers say."""
    latencies = sorted((a.at - start_at - a.number / job.rate) * 1e3 for a in answers
                       if a.status and a.number >= job.warm_up)  # fmt: skip
    answered = [a for a in answers if a.status]
    last = max((a.at for a in answered), default=start_at)
    outcomes, ids = _outcomes(job, answered)
    return {
        "p50_ms": _quantile(latencies, 0.5),
        "p90_ms": _quantile(latencies, 0.9),
        "p99_ms": _quantile(latencies, 0.99),
        "p999_ms": _quantile(latencies, 0.999),
        "max_ms": _quantile(latencies, 1.0),
        "counted": len(latencies),
        "missing": job.number - len(answered),
        "statuses": dict(sorted(Counter(str(a.status) for a in answered).items())),
        "outcomes": outcomes,
        "distinct": ids,
        "answered_per_second": round(len(answered) / max(1e-9, last - start_at), 1),
    }


def _outcomes(job: HttpJob, answers: list[Answer]) -> tuple[dict[str, int], int]:
    """Transactions by what was answered of them, and how many different ids these answers name."""
    if job.kind == "noop":
        return {}, 0
    found: Counter[str] = Counter()
    ids: set[str] = set()
    for a in answers:
        document = json.loads(a.body)
        for one in [r["body"] for r in document["results"]] if "results" in document else [document]:
            told = one.get("transaction", one)
            found[told.get("status") or one.get("code", "?")] += 1
            if "id" in told:
                ids.add(told["id"])
    return dict(found), len(ids)


def _quantile(of: list[float], q: float) -> float | None:
    return round(of[min(len(of) - 1, int(len(of) * q))], 1) if of else None
