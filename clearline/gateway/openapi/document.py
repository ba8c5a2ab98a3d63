"""The OpenAPI 3.1 document of the gateway, put together: `/openapi.json`, docs/openapi.json and `/docs` are this.

It is made from the table of operations, the models that check what comes in, and the problems' own list; a test holds
the table equal to the application's routes, and Schemathesis holds it equal to what they do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from typing import Any

import orjson

from clearline.gateway import problems
from clearline.gateway.openapi.answers import HEADERS, SCHEMAS
from clearline.gateway.openapi.examples import RECORDED_AT, Step, steps
from clearline.gateway.openapi.inputs import body_schemas, model_schemas
from clearline.gateway.openapi.operations import OPERATIONS, PARAMETERS, PATH_PARAMETERS, TAGS
from clearline.gateway.openapi.parts import Answer, Operation, Schema
from clearline.gateway.views import VIEWS

_ABOUT = """\
The HTTP way into a double-entry ledger. Amounts are integers in minor units of an ISO 4217 currency, times RFC 3339 in
UTC with milliseconds, days ISO dates. Whatever is not answered as asked is a problem document (RFC 9457) with a stable
`code` and a page at its `type`. docs/gateway.md says how credentials, signatures and repeated keys work."""

_RATED = ("RateLimit", "RateLimit-Policy")
_OF_STATUS = {401: ("WWW-Authenticate",), 405: ("Allow",), 429: (*_RATED, "Retry-After"), 503: ("Retry-After",)}


def document(base_url: str = "") -> dict[str, Any]:
    """The whole document. `base_url`: where the gateway is; empty: wherever the document was fetched from."""
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for (method, path), operation in OPERATIONS.items():
        paths[path][method.lower()] = _operation(path, operation)
    for path, methods in paths.items():
        names = re.findall(r"{(\w+)}", path)
        if names:
            methods["parameters"] = [PATH_PARAMETERS[name] for name in names]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Clearline", "version": "1", "description": _ABOUT, "license": {
            "name": "Apache-2.0", "identifier": "Apache-2.0",
        }},
        "servers": [{"url": base_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": {**body_schemas(), **model_schemas(VIEWS), **SCHEMAS, **_problem_schemas()},
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "examples": _examples(base_url),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`Authorization: Bearer test_KEYID_SECRET` in a sandbox, `live_...` elsewhere.",
                },
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Signature",
                    "description": "RFC 9421 by Ed25519, with `Signature-Input` and, of a body, `Content-Digest`.",
                },
            },
        },
    }  # fmt: skip


def _operation(path: str, o: Operation) -> dict[str, Any]:
    out: dict[str, Any] = {
        "operationId": o.id,
        "tags": [o.tag],
        "summary": o.summary,
        "description": "\n\n".join(part for part in (o.description, _scope_text(o)) if part),
        "security": [{"key": []}, {"signature": []}] if o.scope is not None else [],
    }
    if not out["description"]:
        del out["description"]
    names = [*(["idempotency_key"] if o.write else []), *(["prefer"] if o.prefers else []), *o.parameters]
    if o.scope is not None:
        names.append("clearline_partner")
    if names:
        out["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in names]
    if o.body:
        out["requestBody"] = {
            "required": o.body_required,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{o.body}"},
                    **_named(s.name for s in steps() if s.operation == o.id and s.body is not None and s.status < 400),
                }
            },
        }
    if o.files:
        out["requestBody"] = {
            "required": True,
            "content": {
                media: {"schema": {"type": "string", "minLength": 1}, **({"example": text} if text else {})}
                for media, text in o.files.items()
            },
        }
    out["responses"] = {
        **{str(status): _answer(o, status, a) for status, a in o.answers.items()},
        **_problem_answers(o.problems(path)),
    }
    return out


def _scope_text(o: Operation) -> str:
    if o.scope is None:
        return "Needs no credential."
    return f"Scope: `{o.scope}`." if o.scope else "Needs a credential, and no scope."


def _answer(o: Operation, status: int, a: Answer) -> dict[str, Any]:
    headers = [*a.headers, *(_RATED if o.scope is not None else ())]
    out: dict[str, Any] = {"description": a.description}
    if headers:
        out["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    if a.schema:
        of_this = (f"{s.name}_answer" for s in steps() if (s.operation, s.status) == (o.id, status))
        out["content"] = {a.media: {"schema": {"$ref": f"#/components/schemas/{a.schema}"}, **_named(of_this)}}
        out["content"] |= {media: {"schema": {"type": "string"}} for media in a.files}
    elif a.media != "application/json":
        out["content"] = {a.media: {"schema": {"type": "string"}}}
    if a.links:
        out["links"] = {
            name: {"operationId": link.operation, "parameters": dict(link.parameters), "description": link.description}
            for name, link in a.links.items()
        }
    return out


def _problem_answers(codes: list[str]) -> dict[str, Any]:
    """One response for each status, with the codes that it can have."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[_status(code)].append(code)
    out = {}
    for status, of_status in sorted(by_status.items()):
        title = HTTPStatus(status).phrase
        headers = _OF_STATUS.get(status, ())
        out[str(status)] = {
            "description": f"{title}: {_listed(of_status)}",
            **({"headers": {h: {"$ref": f"#/components/headers/{h}"} for h in headers}} if headers else {}),
            "content": {
                problems.MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{_schema_name(status)}"},
                    **_named(f"problem_{code}" for code in of_status if code in _provoked()),
                }
            },
        }  # fmt: skip
    return out


def _listed(codes: list[str]) -> str:
    if len(codes) > 12:
        return f"{', '.join(f'`{c}`' for c in codes[:6])} and every other reason of docs/REASONS.md."
    return ", ".join(f"`{c}`" for c in codes) + "."


def _schema_name(status: int) -> str:
    return "Problem" + re.sub(r"\W", "", HTTPStatus(status).phrase)


def _status(code: str) -> int:
    return problems.Problem(code).status


def _problem_schemas() -> dict[str, Schema]:
    """Problem, and for each status a problem with one of its codes."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in problems.codes():
        if code not in by_status[_status(code)]:
            by_status[_status(code)].append(code)
    return {
        _schema_name(status): {
            "allOf": [
                {"$ref": "#/components/schemas/Problem"},
                {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
            ]
        }
        for status, codes in sorted(by_status.items())
    }


@cache
def _provoked() -> dict[str, Step]:
    """For each code that an example shows, the first that does."""
    found: dict[str, Step] = {}
    for s in steps():
        if s.status >= 400 and s.answer is not None:
            found.setdefault(s.answer["code"], s)
    return found


def _named(names: Iterable[str]) -> dict[str, Any]:
    """Examples by reference; nothing where there are none."""
    found = {name: {"$ref": f"#/components/examples/{name}"} for name in names}
    return {"examples": found} if found else {}


def _examples(base_url: str) -> dict[str, Any]:
    """Bodies, answers and problems that were recorded, with this gateway's own address in them."""
    out: dict[str, Any] = {}
    for s in steps():
        if s.status < 400:
            if s.body is not None:
                out[s.name] = {"summary": s.summary, "value": s.body}
            if s.answer is not None:
                out[f"{s.name}_answer"] = {"summary": s.summary, "value": s.answer}
    for code, s in _provoked().items():
        out[f"problem_{code}"] = {"summary": s.summary, "value": s.answer}
    text = orjson.dumps(out).replace(RECORDED_AT.encode(), (base_url or RECORDED_AT).encode())
    found: dict[str, Any] = orjson.loads(text)
    return found
