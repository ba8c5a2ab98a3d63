"""A running system as machines see it: every figure on the list, one trace through all roles, an alert that fires."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from clearline.config import Settings, load_settings
from clearline.connection import connect
from clearline.stack import Stack
from schemas.identity import command_id, partition_of
from streams.metric_names import of_role
from streams.reader import LogRecord, read_to_end
from streams.traces import parent_of
from tests.gateway import keyed, pay
from tests.integration.test_gateway import ground
from tests.otlp import Collector, Span
from tests.sink_servers import wait_for

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
CALLERS = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@dataclass
class System:
    """A whole stack that is traced, and a partner's key for it."""

    stack: Stack
    settings: Settings
    collector: Collector
    token: str
    roles: dict[str, str] = field(default_factory=dict)

    def get(self, role: str, path: str) -> httpx.Response:
        return httpx.get(self.roles[role].removesuffix("/metrics") + path, trust_env=False, timeout=120)

    def transact(self, key: str, **headers: str) -> httpx.Response:
        url = str(self.settings.gateway.public_url)
        return httpx.post(
            f"{url}/v1/transactions", json=pay(), trust_env=False, timeout=120,
            headers={**keyed(key), "Authorization": f"Bearer {self.token}", "Prefer": "wait=30", **headers},
        )  # fmt: skip

    def records(self, topic: str) -> list[LogRecord]:
        return list(read_to_end(connect(self.settings).kafka, topic))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("metrics")
    with Collector() as collector:
        settings = load_settings(
            data_dir=folder / "data", world="sandbox", partitions=2, workers=1,
            traces={"endpoint": collector.url, "ratio": 1.0},
        )  # fmt: skip
        with Stack(settings) as stack:
            stack.start(roles=True)
            ground_of: Any = SimpleNamespace(settings=stack.resolved(), token="")
            ground(ground_of)
            found = System(stack, stack.resolved(), collector, ground_of.token)
            found.roles = {n: r["ready"]["metrics"] for n, r in stack.status()["roles"].items()}
            yield found


def test_a_transaction_is_one_trace_from_the_call_to_clickhouse(system: System) -> None:
    answer = system.transact("traced", traceparent=CALLERS)
    assert answer.status_code == 201, answer.text
    own = command_id("acme", "traced").hex()

    def whole() -> dict[str, Span]:
        spans = system.collector.spans()
        traces = [s.trace for s in spans if s.attributes.get("clearline.command_id") == own]
        found = {s.name: s for s in spans if s.trace in traces}
        return found if {"POST /v1/transactions", "clickhouse insert", "insert batch"} <= found.keys() else {}

    spans = wait_for("the whole trace", whole)
    assert set(spans) == {
        "POST /v1/transactions", "publish", "settle", "journal commit", "settle batch", "clickhouse insert",
        "insert batch",
    }  # fmt: skip
    assert {n: spans[n].service for n in ("publish", "settle", "clickhouse insert")} == {
        "publish": "gateway-0", "settle": "worker-0", "clickhouse insert": "sink-clickhouse",
    }  # fmt: skip
    call, publish, settle = spans["POST /v1/transactions"], spans["publish"], spans["settle"]
    assert call.parent == "", "what a caller says is not believed"
    assert call.links == (("ab" * 16, "cd" * 8),), "but linked to"
    assert publish.parent == call.span
    assert settle.parent == publish.span == spans["clickhouse insert"].parent
    assert spans["journal commit"].parent == settle.span
    for part, batch in (("settle", "settle batch"), ("clickhouse insert", "insert batch")):
        assert spans[part].links == ((spans[batch].trace, spans[batch].span),)
        assert (publish.trace, publish.span) in spans[batch].links
    place = {k: publish.attributes[k] for k in ("messaging.destination.partition.id", "messaging.kafka.offset")}
    assert place.items() <= settle.attributes.items()
    assert call.began <= publish.began <= settle.ended <= spans["journal commit"].ended
    assert spans["journal commit"].began == settle.ended

    topics = connect(system.settings).topics
    context = f"00-{publish.trace}-{publish.span}-".encode()  # and flags, of which one says that it is sampled
    carried = {
        topic: [r for r in system.records(topic) if parent_of(r.headers).startswith(context)]
        for topic in (topics.submitted, topics.journal)
    }
    assert [len(found) for found in carried.values()] == [1, 1]
    for (record,) in carried.values():
        assert publish.trace.encode() not in (record.value or b""), "no value knows of it"
        assert str(record.partition) == place["messaging.destination.partition.id"]
    submitted, journal = (parent_of(found[0].headers) for found in carried.values())
    assert submitted == journal, "as it came"


def test_every_role_serves_what_the_list_says_and_is_ready(system: System) -> None:
    assert system.transact("seen").status_code == 201
    assert len(system.roles) == 7
    for name in system.roles:
        role = name.removesuffix("-0")
        wanted = {str(n).removesuffix("_total") for n in of_role(role)}

        def served(name: str = name, wanted: set[str] = wanted) -> bool:
            families = text_string_to_metric_families(system.get(name, "/metrics").text)
            found = {f.name for f in families if not f.name.endswith("_created")}
            assert found <= wanted, f"{name}: {found - wanted} is on no list"
            return found == wanted  # a clock's is there once something came

        wait_for(f"all figures of {name}", served)
        assert system.get(name, "/healthz").json() == {"status": "ok", "role": name}

        def ready(name: str = name) -> bool:
            return not system.get(name, "/readyz").json()["why"]

        wait_for(f"{name} to be ready", ready)
        assert system.get(name, "/readyz").status_code == 200
    told = json.loads((system.stack.folder.ready / "worker-0.json").read_text())
    assert told["latency_ms"]["count"] > 0 and 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]


def test_prometheus_scrapes_all_of_it_and_an_alert_fires(system: System, tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [
        {"targets": [url.split("/")[2]], "labels": {"role": role}} for role, url in system.roles.items()
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{s.getsockname()[1]}"
    process = subprocess.Popen(
        [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address={at}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def asked(query: str) -> list[dict[str, Any]]:
            try:
                answer = httpx.get(f"http://{at}/api/v1/query", params={"query": query}, trust_env=False)
            except httpx.TransportError:
                return []
            found: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.status_code == 200 else []
            return found

        wait_for("all roles to be scraped", lambda: len(asked('up{job="clearline"} == 1')) == len(system.roles))
        wait_for("a recorded rate", lambda: asked("clearline:commands:rate1m"))
        assert not asked('ALERTS{alertstate="firing"}'), "nothing is wrong"
        topics = connect(system.settings).topics
        producer = Producer(connect(system.settings).kafka.producer())
        for _ in range(30):
            producer.produce(topics.submitted, b"no command", b"acme", partition_of("acme", system.settings.partitions))
        assert producer.flush(30) == 0
        (alert,) = wait_for("the alert", lambda: asked('ALERTS{alertstate="firing", incident="poison_flood"}'))
        assert alert["metric"]["alertname"] == "PoisonFlood"
    finally:
        process.terminate()
        process.wait(120)
