"""docs/openapi.json is what the gateway serves, is OpenAPI 3.1, and has every route with all that it can answer.

When it differs: `python -m clearline openapi --out docs/openapi.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from clearline import cli
from clearline.commands.document import openapi_text
from clearline.gateway.forced import REASONS
from clearline.gateway.openapi.document import document
from clearline.gateway.openapi.operations import OPERATIONS
from clearline.gateway.problems import OWN, codes
from tests.contract import api_story
from tests.contract.gateway_world import GatewayWorld, routes_of
from tests.gateway import in_loop

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def world() -> GatewayWorld:
    return GatewayWorld()


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return document()


def operations(api: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield method.upper(), path, operation


def test_every_route_has_its_row_and_every_row_its_route(world):
    assert set(routes_of(world.app)) == set(OPERATIONS)


def test_the_committed_document_is_what_the_code_says():
    assert COMMITTED.read_text(encoding="utf-8") == openapi_text(), __doc__


def test_the_command_writes_it(tmp_path):
    assert cli.main(["openapi", "--out", str(tmp_path / "api.json")]) == 0
    assert json.loads((tmp_path / "api.json").read_bytes()) == document()


def test_it_is_openapi_3_1(api):
    assert [e.message for e in OpenAPIV31SpecValidator(api).iter_errors()] == []


@in_loop
async def test_the_gateway_serves_it_with_its_own_address(world):
    async with world.client() as client:
        served = await client.get("/openapi.json")
        assert served.json() == json.loads(json.dumps(document("https://api.example")))
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        for name in re.findall(r'(?:href|src)="(docs/[^"]+)"', page.text):
            assert (await client.get(f"/{name}")).status_code == 200
        assert "://" not in re.sub(
            r'"https://api.example[^"]*"', "", " ".join(re.findall(r'(?:href|src)="[^"]*"', page.text))
        )


def test_operations_have_names_of_their_own_and_say_what_they_do(api):
    ids = [o["operationId"] for _, _, o in operations(api)]
    assert len(ids) == len(set(ids)) >= 30
    for _, _, o in operations(api):
        assert o["summary"]
        assert all(r["description"] for r in o["responses"].values())


def test_whoever_needs_a_credential_says_so_and_what_it_is_told_without(api):
    for method, path, o in operations(api):
        if path.startswith("/v1/") and o["security"]:
            assert {"401", "403", "429", "503"} <= set(o["responses"]), (method, path)
            for status in ("401", "403", "429", "503"):
                assert "application/problem+json" in o["responses"][status]["content"]


def test_writes_need_a_key_and_say_what_a_wrong_one_is_told(api):
    for method, path, o in operations(api):
        names = {p["$ref"].rsplit("/", 1)[1] for p in o.get("parameters", ())}
        if method != "GET" and o["security"]:
            assert "idempotency_key" in names, (method, path)
            assert "400" in o["responses"]
        if "requestBody" in o:
            assert {"400", "413", "415", "422"} <= set(o["responses"]), (method, path)


def test_every_answer_of_json_and_every_body_has_an_example(api):
    without = []
    for method, path, o in operations(api):
        for status, answer in o["responses"].items():
            content = answer.get("content", {}).get("application/json") if status < "300" else None
            if (
                content
                and "examples" not in content
                and path.startswith("/v1/")
                and (status == "200" or method != "GET")
            ):
                without.append((method, path, status))
        bodies = o["requestBody"]["content"] if "requestBody" in o else {}
        if bodies and not any(body.get("examples") or body.get("example") for body in bodies.values()):
            without.append((method, path, "body"))
    assert [w for w in without if w[2] != "202"] == []


@pytest.mark.stack  # reports are asked of a real ClickHouse
def test_the_examples_are_what_the_gateway_answers():
    """`python -m tests.contract.api_story` writes them anew."""
    told = api_story.record()
    assert json.loads(told) == json.loads(api_story.FILE.read_text(encoding="utf-8"))


def test_every_example_fits_its_schema(api):
    """Bodies fit what the operation takes; answers fit what it says it answers."""
    resource: Resource[Any] = DRAFT202012.create_resource(api)
    registry = Registry().with_resource("api", resource)
    tried = 0
    for method, path, o in operations(api):
        contents = [r.get("content", {}) for r in o["responses"].values()] + [
            o.get("requestBody", {}).get("content", {})
        ]
        for media in (media for content in contents for media in content.values()):
            schema = {"$ref": "api" + media["schema"]["$ref"]} if "$ref" in media["schema"] else media["schema"]
            check = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())
            for reference in media.get("examples", {}).values():
                value = api["components"]["examples"][reference["$ref"].rsplit("/", 1)[1]]["value"]
                assert [e.message for e in check.iter_errors(value)] == [], (method, path, reference)
                tried += 1
    assert tried > 200


@in_loop
async def test_every_reason_that_a_sandbox_forces_is_as_documented(api):
    """Each of the ledger's reasons, brought about by its magic amount, fits what a payment says it answers."""
    world = GatewayWorld()
    resource: Resource[Any] = DRAFT202012.create_resource(api)
    registry = Registry().with_resource("api", resource)
    named = api["paths"]["/v1/transactions"]["post"]["responses"]["422"]["content"]["application/problem+json"]
    check = Draft202012Validator({"$ref": "api" + named["schema"]["$ref"]}, registry=registry)
    async with world.client(world.key("acme")) as client:
        for number, reason in enumerate(REASONS, 1):
            body = {**api_story.PAY, "amount": 770_000_000 + number}
            headers = {"Idempotency-Key": f"magic-{number}", "Prefer": "wait=5"}
            answer = await client.post("/v1/transactions", json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (422, reason.value), answer.text
            assert [e.message for e in check.iter_errors(answer.json())] == [], reason


def test_every_code_of_the_gateways_own_has_an_example(api):
    shown = {name.removeprefix("problem_") for name in api["components"]["examples"] if name.startswith("problem_")}
    assert set(OWN) - {"internal"} <= shown


@in_loop
async def test_the_page_of_every_code_opens_at_its_type(world, api):
    """The `type` of each problem that an example shows, and of every other code that there is."""
    shown = {e["value"]["type"] for n, e in api["components"]["examples"].items() if n.startswith("problem_")}
    every = {f"https://api.example/reasons/{code}" for code in codes()}
    assert shown <= every
    async with world.client() as client:
        for uri in sorted(every):
            page = await client.get(uri)
            assert page.status_code == 200, uri
            assert page.headers["content-type"].startswith("text/html")
            assert uri.rsplit("/", 1)[1] in page.text
        assert (await client.get("https://api.example/reasons/no_such_code")).status_code == 404


def test_every_status_that_a_problem_has_is_one_of_its_code(api):
    for name, example in api["components"]["examples"].items():
        if name.startswith("problem_"):
            code = example["value"]["code"]
            assert example["value"]["status"] == (OWN[code].status if code in OWN else 422)


def test_the_page_of_the_gateway_lists_the_codes_that_are_its_own():
    text = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    section = text.split("## Codes that are the gateway's own")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", section)) - {"instance", "missing"}
    assert named == set(OWN)
