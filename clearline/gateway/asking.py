"""What every route reads of a request: the body as JSON, the idempotency key, for how long the caller will wait."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any, NamedTuple

from fastapi import Request

from clearline.contract import ERRORS_MAX, ContractError, FieldError, parse_json, read_command
from clearline.fields import KEY_MAX, shown
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from schemas.records import Command

# What a caller does not write: who asks comes from the credential, the key from its header, the command from the path.
HIDDEN = {
    "partner_id": "is not taken from the body: the partner is the credential's, or one below it named in the header "
    "Clearline-Partner",
    "idempotency_key": "is not taken from the body: send it as the header Idempotency-Key",
    "command": "is not taken from the body: the path says what is asked",
}
_JSON = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$', re.I)
_WAIT = re.compile(r"\d{1,9}", re.ASCII)


class Wait(NamedTuple):
    """For how long the caller waits for the outcome; `applied`: what `Preference-Applied` says, empty for nothing."""

    seconds: int
    applied: str

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says of it."""
        return {"Preference-Applied": self.applied} if self.applied else {}


def wait_of(request: Request, parts: Parts) -> Wait:
    """`Prefer: wait=N`, cut to the settings' most. Other preferences are not ours and are left alone (RFC 7240).

    Raises Problem("prefer_invalid") for a wait that is no number of seconds.
    """
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            name, equals, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() != "wait":
                continue
            value = value.strip().strip('"')
            if not equals or not _WAIT.fullmatch(value):
                raise Problem("prefer_invalid", f"wait: must be whole seconds, not {shown(value)}")
            seconds = min(int(value), int(parts.settings.gateway.wait_s_max))
            return Wait(seconds, f"wait={seconds}")
    return Wait(0, "")


def idempotency_key(request: Request) -> str:
    """The key of a write. Raises Problem."""
    found = request.headers.getlist("idempotency-key")
    if not found:
        raise Problem("idempotency_key_missing")
    if len(found) > 1:
        raise Problem("idempotency_key_invalid", "Idempotency-Key: is given twice")
    key = _utf8(found[0])
    if key is None or not 1 <= len(key) <= KEY_MAX or not key.isprintable():
        raise Problem("idempotency_key_invalid", f"Idempotency-Key: 1 to {KEY_MAX} printable characters")
    return key


def _utf8(header: str) -> str | None:
    """Header values come as Latin-1; a key beyond ASCII is UTF-8, as the ledger has it."""
    if header.isascii():
        return header
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return None


def media_type(request: Request) -> None:
    """Raises Problem("unsupported_media_type") for another type than JSON in UTF-8."""
    given = request.headers.get("content-type", "")
    if not _JSON.match(given.strip()):
        raise Problem("unsupported_media_type", f"Content-Type: must be application/json, not {shown(given)}")


async def json_body(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises Problem."""
    media_type(request)
    return json_object(await request.body())


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object, read as the contract reads it: no floats for amounts, no name twice. Raises Problem."""
    try:
        document = parse_json(body)
    except ContractError as e:
        if e.errors[0].field:
            raise
        raise Problem("body_invalid", f"the body {e.errors[0].rule}" if body else "the body is empty") from None
    if not isinstance(document, dict):
        raise Problem("body_invalid", f"the body must be a JSON object, not {shown(document)}")
    return document


def refuse(document: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Raises ContractError that names the fields of a body that are not taken from it."""
    found = [FieldError(name, rule) for name, rule in refused.items() if name in document]
    if found:
        raise ContractError(found)


def only(document: Mapping[str, Any], names: Collection[str]) -> None:
    """Raises ContractError that names the fields that are none of these."""
    known = f"is not a field here; known are {', '.join(names)}" if names else "is not a field here; none is"
    strange = [FieldError(name if name.isprintable() and len(name) <= 64 else shown(name), known)
               for name in islice((n for n in document if n not in names), ERRORS_MAX)]  # fmt: skip
    if strange:
        raise ContractError(strange)


def command_of(
    document: Mapping[str, Any], partner_id: str, key: str, today: date, command: str = "Transaction"
) -> Command:
    """The command that a body asks for, in the name of a partner and under a key. Raises ContractError."""
    own = {"command": command, "partner_id": partner_id, "idempotency_key": key}
    return read_command({**document, **own}, today, HIDDEN)


def today_of(parts: Parts) -> date:
    """The day in UTC."""
    return datetime.fromtimestamp(parts.now_ms() // 1000, UTC).date()
