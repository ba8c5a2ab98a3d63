"""A worker's metrics, as Prometheus reads them: over HTTP, in its text format, parsed by its own parser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.errors import BadInputError
from streams.metrics import HELP, MetricsAddress, MetricsServer, Name, WorkerCollector


@pytest.fixture
def figures() -> dict[str, Any]:
    """What a worker of four partitions says of which one broke an invariant."""
    return {
        "ready": True, "partitions": [0, 1, 3], "stopped": {"2": "debits are not credits"},
        "next_offset": {"0": 7, "1": 0, "3": 12_000}, "accounts": 40, "keys": 900, "keys_bytes": 46_000,
        "commands": 1_000, "commits": 30, "aborts": 2, "last_commit_at": 1_795_000_000.5, "gather_s": 0.5,
        "wait_s": 1.5, "commit_s": 2.5, "stages": {"commands": 1_000, "decode": 0.25, "settle": 3.0},
        "in_flight": {"transactions": 2, "amounts": {"CNY": [500, -20]}},
    }  # fmt: skip


@pytest.fixture
def server(figures: dict[str, Any]) -> Iterator[MetricsServer]:
    server = MetricsServer(MetricsAddress(), WorkerCollector(lambda: figures))
    yield server
    server.close()


def samples(url: str) -> dict[str, float]:
    """Each sample by its name and labels, as `name{label}`."""
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation == HELP[Name(family.name + "_total" * (family.type == "counter"))]
        for s in family.samples:
            found[s.name + "".join(f"{{{v}}}" for v in s.labels.values())] = s.value
    return found


def test_every_metric_is_served_with_its_value(server: MetricsServer) -> None:
    assert samples(server.url) == {
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
    }  # fmt: skip
    assert {s.split("{")[0] for s in samples(server.url)} == set(Name)


def test_a_scrape_reads_the_figures_of_that_moment(server: MetricsServer, figures: dict[str, Any]) -> None:
    assert samples(server.url)["clearline_partition_stopped{3}"] == 0
    figures |= {"partitions": [0, 1], "stopped": {"2": "x", "3": "a counter below zero"}, "commands": 1_234}
    now = samples(server.url)
    assert [now[f"clearline_partition_stopped{{{p}}}"] for p in range(4)] == [0, 0, 1, 1]
    assert now["clearline_commands_total"] == 1_234


def test_it_listens_on_loopback_and_a_taken_port_is_said(server: MetricsServer) -> None:
    host, port = server.url.removeprefix("http://").removesuffix("/metrics").split(":")
    assert host == "127.0.0.1"
    with pytest.raises(BadInputError, match=rf"metrics cannot be served on 127\.0\.0\.1:{port}.*in use"):
        MetricsServer(MetricsAddress(port=int(port)), WorkerCollector(dict))


def test_a_closed_server_gives_its_port_back() -> None:
    first = MetricsServer(MetricsAddress(), WorkerCollector(dict))
    port = int(first.url.split(":")[2].split("/")[0])
    first.close()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0
    MetricsServer(MetricsAddress(port=port), WorkerCollector(dict)).close()
