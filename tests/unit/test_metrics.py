"""What roles serve of themselves, as Prometheus reads them: over HTTP, in its text format, parsed by its own parser."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from schemas.errors import NO_SPACE, READ_ONLY, BadInputError, PartUnavailableError
from streams import metrics
from streams.metric_names import EVERY, FOLLOWERS, WORKER, Name, named, of_role, sample_names
from streams.metrics import Check, MetricsAddress, MetricsServer, RoleFacts
from streams.metrics_follower import serve_follower
from streams.metrics_worker import WorkerCollector
from streams.report import Report
from streams.times import BOUNDS_MS, Behind, Least, Rate, Times
from tests.sink_servers import wait_for

WELL = RoleFacts("worker-0", lambda: [Check("store", True, "Kafka answers")])


@pytest.fixture
def figures() -> dict[str, Any]:
    """What a worker of four partitions says of which one broke an invariant."""
    return {
        "ready": True, "partitions": [0, 1, 3], "stopped": {"2": "debits are not credits"},
        "next_offset": {"0": 7, "1": 0, "3": 12_000}, "accounts": 40, "keys": 900, "keys_bytes": 46_000,
        "commands": 1_000, "commits": 30, "aborts": 2, "last_commit_at": 1_795_000_000.5, "gather_s": 0.5,
        "wait_s": 1.5, "commit_s": 2.5, "stages": {"commands": 1_000, "decode": 0.25, "settle": 3.0},
        "in_flight": {"transactions": 2, "amounts": {"CNY": [500, -20]}}, "cores": 1, "dropped": {"count": 3, "fenced": 1, "last_fenced_at_ms": 5_500}, "lag_seconds": 0.25,
        "end_offset": {"0": 9, "1": 0, "3": 12_000}, "lag": {"0": 2, "1": 0, "3": 0}, "clock_skew_ms": 1.5,
        "sequence": {"0": 6, "1": 0, "3": 11_990},
        "outcomes": {"0": {"settled": 4, "rejected": 1, "repeated": 0, "applied": 1, "dead": 1}},
    }  # fmt: skip


@pytest.fixture
def latency() -> Times:
    times = Times()
    for ms in (1.5, 2.5, 700):
        times.add(ms)
    return times


@pytest.fixture
def server(figures: dict[str, Any], latency: Times, tmp_path: Path) -> Iterator[MetricsServer]:
    at = MetricsAddress(world="live", version="1.2", disk=tmp_path / "not" / "made" / "yet")
    server = MetricsServer(at, WELL, [WorkerCollector(lambda: figures, latency)])
    yield server
    server.close()


def samples(url: str) -> dict[str, float]:
    """Each sample by its name and the values of its labels in the order of their names, as `name{value}`."""
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation == named(family.name + "_total" * (family.type == "counter")).help
        for s in family.samples:
            found[s.name + "".join(f"{{{v}}}" for v in s.labels.values())] = s.value
    return found


def test_every_metric_is_served_with_its_value(server: MetricsServer) -> None:
    found = samples(server.url)
    own = {k: v for k, v in found.items() if not k.startswith(("clearline_process_", "clearline_disk_"))}
    assert own == {
        "clearline_worker_ready": 1, "clearline_accounts": 40, "clearline_remembered_keys": 900,
        "clearline_remembered_keys_bytes": 46_000, "clearline_last_commit_timestamp_seconds": 1_795_000_000.5,
        "clearline_commands_total": 1_000, "clearline_commits_total": 30, "clearline_aborts_total": 2,
        **{f"clearline_partition_assigned{{{p}}}": 1 for p in (0, 1, 3)},
        **{f"clearline_partition_stopped{{{p}}}": int(p == 2) for p in range(4)},
        "clearline_partition_next_offset{0}": 7, "clearline_partition_next_offset{1}": 0,
        "clearline_partition_next_offset{3}": 12_000,
        "clearline_stage_seconds_total{gather}": 0.5, "clearline_stage_seconds_total{wait}": 1.5,
        "clearline_stage_seconds_total{commit}": 2.5, "clearline_stage_seconds_total{decode}": 0.25,
        "clearline_stage_seconds_total{settle}": 3.0, "clearline_in_flight_transactions": 2,
        "clearline_in_flight_minor_units{CNY}{set_aside}": 500, "clearline_in_flight_minor_units{CNY}{gone}": -20,
        "clearline_role_ready{worker-0}": 1, "clearline_role_check{store}{worker-0}": 1,
        "clearline_role_info{worker-0}{1.2}{live}": 1,
        **{f"clearline_role_waiting{{{p}}}{{worker-0}}": 0 for p in ("kafka", "registry", "clickhouse", "redis")},
        **{f"clearline_role_waiting_code{{{c}}}{{worker-0}}": 0 for c in ("read_only", "no_space")},
        "clearline_fenced_total": 1, "clearline_last_fenced_timestamp_seconds": 5.5, "clearline_cores_total": 1, "clearline_worker_lag_seconds": 0.25,
        "clearline_clock_skew_seconds{worker-0}": 0.0015,
        "clearline_partition_end_offset{0}": 9, "clearline_partition_end_offset{1}": 0,
        "clearline_partition_end_offset{3}": 12_000, "clearline_partition_lag_records{0}": 2,
        "clearline_partition_lag_records{1}": 0, "clearline_partition_lag_records{3}": 0,
        "clearline_partition_sequence{0}": 6, "clearline_partition_sequence{1}": 0,
        "clearline_partition_sequence{3}": 11_990, "clearline_partition_outcomes_total{settled}{0}": 4,
        "clearline_partition_outcomes_total{rejected}{0}": 1, "clearline_partition_outcomes_total{repeated}{0}": 0,
        "clearline_partition_outcomes_total{applied}{0}": 1, "clearline_partition_outcomes_total{dead}{0}": 1,
        **{f"clearline_settlement_latency_seconds_bucket{{{le}}}": n for le, n in {
            "0.002": 1, "0.005": 2, "0.01": 2, "0.02": 2, "0.03": 2, "0.05": 2, "0.1": 2, "0.2": 2, "0.3": 2,
            "0.5": 2, "1.0": 3, "2.0": 3, "5.0": 3, "10.0": 3, "30.0": 3, "60.0": 3, "300.0": 3, "3600.0": 3,
            "+Inf": 3,
        }.items()},
        "clearline_settlement_latency_seconds_count": 3, "clearline_settlement_latency_seconds_sum": 0.704,
    }  # fmt: skip
    assert {s.split("{")[0] for s in found} == {sample for n in of_role(WORKER) for sample in sample_names(n)}
    assert found["clearline_disk_size_bytes{worker-0}"] >= found["clearline_disk_free_bytes{worker-0}"] > 0
    assert found["clearline_process_resident_memory_bytes"] > 1_000_000


def test_a_scrape_reads_the_figures_of_that_moment(server: MetricsServer, figures: dict[str, Any]) -> None:
    assert samples(server.url)["clearline_partition_stopped{3}"] == 0
    figures |= {"partitions": [0, 1], "stopped": {"2": "x", "3": "a counter below zero"}, "commands": 1_234}
    now = samples(server.url)
    assert [now[f"clearline_partition_stopped{{{p}}}"] for p in range(4)] == [0, 0, 1, 1]
    assert now["clearline_commands_total"] == 1_234


def test_it_listens_on_loopback_and_a_taken_port_is_said(server: MetricsServer) -> None:
    host, port = server.url.removeprefix("http://").removesuffix("/metrics").split(":")
    assert host == "127.0.0.1"
    with pytest.raises(BadInputError, match=rf"metrics of worker-0 cannot be served on 127\.0\.0\.1:{port}.*in use"):
        MetricsServer(MetricsAddress(port=int(port)), WELL)


def test_a_closed_server_gives_its_port_back() -> None:
    first = MetricsServer(MetricsAddress(), WELL)
    port = int(first.url.split(":")[2].split("/")[0])
    first.close()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0
    MetricsServer(MetricsAddress(port=port), WELL).close()


def test_who_opens_connections_and_says_nothing_takes_no_thread_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "THREADS_MAX", 3)
    server = MetricsServer(MetricsAddress(), WELL)
    at = ("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
    silent = [socket.create_connection(at, 10) for _ in range(3)]
    try:
        with socket.create_connection(at, 10) as one_more:
            assert one_more.recv(1) == b"", "there is no fourth thread"
    finally:
        for s in silent:
            s.close()
    wait_for("a thread that is free again", lambda: answers(server))
    monkeypatch.setattr(metrics._Quiet, "timeout", 0.05)
    with socket.create_connection(at, 10) as slow:
        slow.sendall(b"GET /metr")
        assert slow.recv(1) == b"", "it was let go"
    server.close()


def answers(server: MetricsServer) -> bool:
    try:
        return get(server, "/healthz").status_code == 200
    except httpx.TransportError:
        return False


def get(server: MetricsServer, path: str) -> httpx.Response:
    return httpx.get(server.url.removesuffix("/metrics") + path, trust_env=False)


def test_ready_is_said_with_why_not() -> None:
    checks = [Check("assigned", True, "partitions 0"), Check("lag", True, "0.0 s behind, at most 30 s are allowed")]
    server = MetricsServer(MetricsAddress(), RoleFacts("sink-redis", lambda: checks, lambda: "redis"))
    try:
        assert get(server, "/healthz").json() == {"status": "ok", "role": "sink-redis"}
        answer = get(server, "/readyz")
        assert (answer.status_code, answer.json()["ready"], answer.json()["why"]) == (200, True, [])
        checks[1] = Check("lag", False, "31.0 s behind, at most 30 s are allowed")
        answer = get(server, "/readyz")
        assert (answer.status_code, answer.json()["why"]) == (503, ["31.0 s behind, at most 30 s are allowed"])
        assert answer.json()["checks"]["assigned"] == {"ok": True, "said": "partitions 0"}
        assert get(server, "/healthz").status_code == 200, "a role that is not ready lives"
        found = samples(server.url)
        assert found["clearline_role_ready{sink-redis}"] == 0
        assert found["clearline_role_check{lag}{sink-redis}"] == 0
        assert [found[f"clearline_role_waiting{{{p}}}{{sink-redis}}"] for p in ("redis", "kafka")] == [1, 0]
        nothing = get(server, "/anything")
        assert (nothing.status_code, nothing.json()) == (404, {"paths": ["/metrics", "/healthz", "/readyz"]})
    finally:
        server.close()


def test_who_reads_on_and_gets_nothing_says_that_it_waits(tmp_path: Path) -> None:
    """A consumer whose broker is gone gets nothing, and no error: the ready file says the same as the metrics."""
    away = KafkaException(KafkaError(KafkaError._TRANSPORT, "gone"))

    def gone() -> dict[int, int]:
        raise away

    report = Report("sealer", tmp_path / "ready.json", 0.0, gone)
    report.serves()
    report.tell()
    told = orjson.loads((tmp_path / "ready.json").read_text())
    assert (told["ready"], told["waiting_for"], told["waiting_part"]) == (True, "Kafka does not answer: gone", "Kafka")
    report.wait(PartUnavailableError("Redis", "localhost", "no space", code=NO_SPACE))
    told = orjson.loads((tmp_path / "ready.json").read_text())
    assert (told["waiting_part"], told["waiting_code"]) == ("Redis", NO_SPACE)
    report.serves()
    report.ends = lambda: {0: 1}
    report.tell()
    told = orjson.loads((tmp_path / "ready.json").read_text())
    assert (told["waiting_for"], told["waiting_part"]) == ("", "")


@pytest.mark.parametrize("role", [r for r in FOLLOWERS if r != "tieout"])
def test_what_follows_the_log_serves_what_the_list_says_of_it(role: str, tmp_path: Path) -> None:
    report = Report(role, tmp_path / "ready.json", 0.0, lambda: {0: 12, 1: 5}, verified={0: 10, 1: 5})
    server = serve_follower(report, MetricsAddress(disk=tmp_path), role)
    try:
        assert get(server, "/readyz").status_code == 503, "it has not said yet that it goes on"
        report.serves()
        report.stored(3, time.perf_counter())
        report.records = 3
        report.tell()
        assert get(server, "/readyz").status_code == 200
        found = samples(server.url)
        assert {s.split("{")[0] for s in found} == {sample for n in of_role(role) for sample in sample_names(n)}
        assert found[f"clearline_follower_lag_records{{0}}{{{role}}}"] == 2
        assert found[f"clearline_follower_next_offset{{1}}{{{role}}}"] == 5
        assert found[f"clearline_follower_records_total{{{role}}}"] == 3
        report.ends = None  # the session is over
        report.wait(PartUnavailableError("ClickHouse", "there:9000", code=READ_ONLY))
        assert get(server, "/readyz").json()["why"][0] == "it has not found where to go on from"
        assert samples(server.url)[f"clearline_role_waiting{{clickhouse}}{{{role}}}"] == 1
        assert samples(server.url)[f"clearline_role_waiting_code{{read_only}}{{{role}}}"] == 1
        assert report.lag_seconds > 0, "what waits for a store grows old"
        told = orjson.loads((tmp_path / "ready.json").read_bytes())
        assert (told["waiting_part"], told["lag"], told["records"]) == ("ClickHouse", None, 3)
    finally:
        server.close()


def test_the_list_has_every_name_once_with_its_unit_and_someone_who_serves_it() -> None:
    for n in Name:
        assert n.startswith("clearline_") and n.roles and set(n.roles) <= set(EVERY), n
        assert n.help.endswith((".", "0.")) and "\n" not in n.help, n
        assert n.endswith("_total") == (n.kind == "counter"), n
        assert n.unit != "bytes" or n.endswith("_bytes"), n
        assert n.unit != "seconds" or n.endswith(("_seconds", "_seconds_total")), n
        assert n.unit != "unix seconds" or n.endswith("_seconds"), n
    assert named("clearline_accounts") is Name.ACCOUNTS


class Stamped:
    def __init__(self, at: int) -> None:
        self.at, self.asked = at, 0

    def timestamp(self) -> tuple[int, int]:
        self.asked += 1
        return 1, self.at


@given(st.lists(st.integers(0, 700_000), max_size=200), st.integers(0, 5_000))
def test_a_batch_is_counted_as_if_each_was(ages: list[int], extra: int) -> None:
    now = 1_795_000_000_000
    batch = [Stamped(now - age) for age in sorted(ages, reverse=True)]
    together, singly = Times(), Times()
    together.add_since(batch, now + extra)
    for age in ages:
        singly.add(age + extra)
    assert together.shown() == singly.shown()
    assert together.last_minute() == singly.last_minute()


def test_a_large_batch_is_counted_by_a_few_looks() -> None:
    now = 1_795_000_000_000
    batch = [Stamped(now - 40 + i // 200) for i in range(4_000)]
    times = Times()
    times.add_since(batch, now)
    assert times.last_minute()["count"] == 4_000
    assert sum(m.asked for m in batch) < 80, "a command costs nothing of its own"


@given(st.lists(st.floats(0, 3_000_000), min_size=1))
def test_percentiles_are_as_exact_as_the_buckets(ms: list[float]) -> None:
    times = Times()
    for x in ms:
        times.add(x)
    for share, told in ((0.5, times.last_minute()["p50"]), (0.99, times.last_minute()["p99"])):
        exact = sorted(ms)[math.ceil(share * len(ms)) - 1]
        above = next(b for b in BOUNDS_MS if b >= exact)
        below = max((b for b in BOUNDS_MS if b < exact), default=0)
        assert below <= told <= above


def test_only_the_last_minute_is_told_of() -> None:
    now = [100.0]

    def clock() -> float:
        return now[0]

    times, least, rate, behind = Times(clock), Least(clock), Rate(clock=clock), Behind(clock)
    assert (times.last_minute(), least.value) == ({"p50": None, "p99": None, "count": 0}, None)
    times.add(900)
    least.see(7.0)
    least.see(9.0)
    assert rate.per_second(50) == 0.0
    now[0] = 130.0
    times.add(4)
    least.see(8.0)
    assert (times.last_minute()["count"], least.value, rate.per_second(110)) == (2, 7.0, 2.0)
    assert behind.seconds({0: 5}, {0: 5}) == 0.0
    assert behind.seconds({0: 6}, {0: 5}) == 0.0
    now[0] = 165.0
    assert (times.last_minute(), least.value) == ({"p50": 3.5, "p99": 4.0, "count": 1}, 8.0)
    assert behind.seconds({0: 9}, {0: 5}) == 35.0
    assert behind.seconds({0: 9}, {0: 6}) == 0.0, "what is behind now came with the last look"
    assert times.shown()[0][-1] == ("+Inf", 2.0), "all of them stay in the histogram"
    assert rate.per_second(110) == 0.0
