"""The words in which an operation of the API is described: a row of the table in `operations.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Schema = dict[str, Any]

# What any call with a credential can be told, whatever it is for.
OF_CREDENTIALS = (
    "unauthenticated", "signature_required", "signature_invalid", "signature_expired", "signature_replayed",
    "certificate_required", "forbidden", "scope_missing", "rate_limited", "quota_exceeded", "unavailable",
)  # fmt: skip
OF_WRITES = ("idempotency_key_missing", "idempotency_key_invalid")
OF_BODIES = ("body_invalid", "body_too_large", "unsupported_media_type", "field_invalid")
OF_COMMANDS = ("prefer_invalid", "field_invalid", "idempotency_conflict")


class Link(NamedTuple):
    """From an answer to a further call. `parameters`: of that call, as runtime expressions."""

    operation: str
    parameters: Mapping[str, str]
    description: str


class Answer(NamedTuple):
    """What is answered when it went well. `schema`: name of a component, empty for no body. `files`: media types that
    it has besides, as bytes."""

    description: str
    schema: str = ""
    headers: Sequence[str] = ()
    links: Mapping[str, Link] = {}
    media: str = "application/json"
    files: Sequence[str] = ()


class Operation(NamedTuple):
    """One method of one path. `scope`: what the credential needs, None where none is needed.

    `codes`: of the problems, beside those that follow from scope, write, body and path; `every_reason`: the ledger's,
    too. `write`: needs an Idempotency-Key; `prefers`: takes Prefer. `files`: media types of a body
    that is a file, each with an example, empty for none.
    """

    id: str
    tag: str
    summary: str
    scope: str | None
    answers: Mapping[int, Answer]
    description: str = ""
    parameters: Sequence[str] = ()
    body: str = ""
    body_required: bool = True
    files: Mapping[str, str] = {}
    write: bool = False
    prefers: bool = False
    every_reason: bool = False
    codes: Sequence[str] = ()

    def problems(self, path: str) -> list[str]:
        """Codes of every problem that it can answer with, in the order of `problems.codes()`."""
        from clearline.gateway.problems import codes

        found = set(self.codes)
        if self.scope is not None:
            found.update(OF_CREDENTIALS)
        if self.write:
            found.update(OF_WRITES)
        if self.body or self.files:
            found.update(OF_BODIES)
        if self.prefers:
            found.update(OF_COMMANDS)
        if "{" in path and self.scope is not None:
            found.add("not_found")
        if "cursor" in self.parameters:
            found.add("cursor_invalid")
        if self.scope is not None and not self.write:
            found.add("field_invalid")  # a parameter that is not known, or is not what it must be
        return [c for c in codes() if c in found or (self.every_reason and is_reason(c))]


def is_reason(code: str) -> bool:
    """Whether a code is the ledger's."""
    from clearline.gateway.problems import OWN

    return code not in OWN
