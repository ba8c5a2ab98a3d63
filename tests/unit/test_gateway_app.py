"""The application around the routes: what it says of itself, figures, errors that nobody expected, and where it listens."""

from __future__ import annotations

import asyncio
import re
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

import clearline
from clearline.config import load_settings
from clearline.gateway.app import Edge, create_app, routers
from clearline.gateway.serve import Health, _Listener
from clearline.roles import run_role
from clearline.stack import Stack, gateway_port
from schemas.errors import BadInputError
from streams.metric_names import GATEWAY, of_role
from tests.gateway import URL, Gate, in_loop, keyed, pay

ROOT = Path(__file__).resolve().parents[2]


def visitor(gate: Gate) -> httpx.AsyncClient:
    """Somebody without a key."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate.app), base_url=URL)


@in_loop
async def test_it_says_whether_it_can_serve_and_why_not():
    gate = Gate()
    async with visitor(gate) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "troubles": []})
        gate.parts.ready = lambda: ["replies are not followed"]
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["troubles"]) == (503, ["replies are not followed"])
        assert (await client.get("/healthz")).status_code == 200
        gate.parts.figures = lambda: {"commands_under_way": 3}
        status = (await client.get("/v1/status")).json()
        assert status == {
            "status": "not ready", "troubles": ["replies are not followed"], "world": "sandbox", "sandbox": True,
            "version": clearline.__version__, "limiter": "redis", "commands_under_way": 3,
        }  # fmt: skip


def test_the_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert clearline.__version__ == project["version"]


@in_loop
async def test_figures_have_the_names_of_the_list_and_no_ids_in_labels():
    gate = Gate()
    async with gate.client() as client:
        first = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        await client.get(first.headers["location"])
        await client.get("/v1/transactions/nothing")
        await client.get("/no/such/path")
        await client.request("BREW", "/v1/transactions")
        text = (await client.get("/metrics")).text
    families = {f.name: f for f in text_string_to_metric_families(text)}
    own = [n for n in of_role(GATEWAY) if n.startswith("clearline_gateway_")]  # the rest is the operations server's
    assert {n for n in families if not n.endswith("_created")} == {str(n).removesuffix("_total") for n in own}
    assert all(families[str(n).removesuffix("_total")].documentation == n.help for n in own)
    calls = {
        (s.labels["method"], s.labels["route"], s.labels["status"]): s.value
        for s in families["clearline_gateway_calls"].samples
        if s.name.endswith("_total")
    }
    assert calls["POST", "/v1/transactions", "201"] == 1
    assert calls["GET", "/v1/transactions/{id}", "200"] == 1
    assert calls["GET", "/v1/transactions/{id}", "404"] == 1
    assert calls["GET", "other", "404"] == 1
    assert {route for _, route, _ in calls} <= {"other", "/v1/transactions", "/v1/transactions/{id}"}
    assert {method for method, _, _ in calls} == {"GET", "POST", "other"}
    assert families["clearline_gateway_ready"].samples[0].value == 1
    assert families["clearline_gateway_outcomes_in_memory"].samples[0].value == 1


@in_loop
async def test_paths_and_methods_that_there_are_none_of():
    gate = Gate()
    async with visitor(gate) as client:
        nothing = await client.get("/v2/transactions")
        assert (nothing.status_code, nothing.json()["code"]) == (404, "not_found")
        assert nothing.headers["content-type"] == "application/problem+json"
        other = await client.delete("/v1/transactions")
        assert (other.status_code, other.json()["code"]) == (405, "method_not_allowed")
        assert "POST" in other.headers["allow"]
        nobody = await client.post("/v1/transactions", json=pay(), headers=keyed("k"))
        assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")


def test_every_module_of_routes_is_included_and_the_hot_one_first():
    paths = [getattr(route, "path", "") for router in routers() for route in router.routes]
    assert paths[0] == "/v1/transactions"
    assert {"/healthz", "/v1/transactions:batch"} <= set(paths)


@in_loop
async def test_an_error_after_the_answer_began_is_not_answered_again():
    gate = Gate()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("the other half")

    edge = Edge(app, gate.parts, gate.app.state.metrics)
    sent = []

    async def send(message):
        sent.append(message)

    async def nothing():
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/half", "headers": []}
    with pytest.raises(RuntimeError, match="the other half"):
        await edge(scope, nothing, send)
    assert [m["type"] for m in sent] == ["http.response.start"]


def test_a_port_that_is_taken_is_told_with_its_settings():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=rf"cannot listen on 127.0.0.1:{port} .*CLEARLINE_PORTS__GATEWAY"):
            _Listener("127.0.0.1", port, {})
    free = _Listener("127.0.0.1", 0, {"ssl_certfile": "x"})
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", free.url)
    free.socket.close()
    everywhere = _Listener("0.0.0.0", 0, {})
    assert everywhere.url.startswith("http://127.0.0.1:")
    everywhere.socket.close()


def test_a_slot_that_the_settings_do_not_have(tmp_path):
    settings = load_settings(data_dir=tmp_path, gateway={"instances": 2})
    with pytest.raises(BadInputError, match="slot 2 does not exist: CLEARLINE_GATEWAY__INSTANCES=2 makes 0 to 1"):
        run_role("gateway", settings, 2)


def test_each_gateway_of_a_stack_has_a_port_and_all_have_one_address(tmp_path):
    settings = load_settings(data_dir=tmp_path / "d", gateway={"instances": 3}, ports={"gateway": 28_400})
    stack = Stack(settings)
    wanted = stack._wanted_ports()
    assert [wanted[gateway_port(i)] for i in range(3)] == [28_400, 28_401, 28_402]
    free = Stack(load_settings(data_dir=tmp_path / "d", gateway={"instances": 2}))._wanted_ports()
    assert [free[gateway_port(i)] for i in range(2)] == [0, 0]
    stack._ports = {gateway_port(i): 30_000 + 7 * i for i in range(3)}
    assert stack.addresses().gateway_url == "http://127.0.0.1:30000"
    for i in range(3):
        env = stack._role_spec(f"gateway-{i}").env
        assert int(env["CLEARLINE_PORTS__GATEWAY"]) + i == 30_000 + 7 * i, "instance N listens on port + N"
        assert env["CLEARLINE_GATEWAY__PUBLIC_URL"] == "http://127.0.0.1:30000"
    named = Stack(load_settings(data_dir=tmp_path / "d", gateway={"public_url": "https://api.bank.example/"}))
    assert named.addresses().gateway_url == "https://api.bank.example"


def test_an_application_is_made_of_parts_alone():
    gate = Gate()
    assert create_app(gate.parts).state.parts is gate.parts


@in_loop
async def test_where_the_broker_is_stands_in_the_log_and_is_not_told_to_everybody():
    health = Health(SimpleNamespace(), *(SimpleNamespace(following=True, ready=True) for _ in range(3)))  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as logged:
        watch = asyncio.create_task(health.watch())
        await until(lambda: bool(health.troubles()))
        watch.cancel()
    assert health.troubles() == ["Kafka does not answer"]
    assert [(line["event"], "kafka" in line["error"]) for line in logged] == [("broker_away", True)]


async def until(is_so: Callable[[], bool]) -> None:
    """Waits, at most 20 s."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)
