"""Signed requests: RFC 9421 with Ed25519, over all that decides what a request does.

What can be said without looking at any key is checked first and named, so that a developer sees his mistake; from the
look at the key on there is one answer, and the same work for a key that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import http_sf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import Request
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, InvalidSignature
from http_message_signatures.algorithms import ED25519
from http_message_signatures.digests import ContentDigest
from starlette.datastructures import Headers

from clearline import keys
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.signing import ALGORITHM, COVERED, COVERED_HEADERS, DIGEST, LABEL, NONCE_CHARACTERS
from schemas.records import AccessKey

# Any key, for whoever names one that does not exist: the work is the same, and nothing is ever signed by it.
_NOBODY = Ed25519PublicKey.from_public_bytes(
    bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII)
_AGES = "the signature is of another time than now, by more than {} s"


class _Input:
    """What Signature-Input says under our label."""

    def __init__(self, components: list[tuple[Any, dict[str, Any]]], parameters: dict[str, Any]) -> None:
        self.covered = {name for name, more in components if not more and isinstance(name, str)}
        self.key_id = _text(parameters, "keyid")
        self.nonce = _text(parameters, "nonce")
        self.created = _whole(parameters, "created")
        self.expires = _whole(parameters, "expires") if "expires" in parameters else None
        if not keys.KEY_ID.fullmatch(self.key_id):
            raise _invalid("keyid must be the id of a key: 16 characters of a-z 0-9")
        if not NONCE_CHARACTERS[0] <= len(self.nonce) <= NONCE_CHARACTERS[1]:
            raise _invalid(f"nonce must have {NONCE_CHARACTERS[0]} to {NONCE_CHARACTERS[1]} characters")
        if _text(parameters, "alg") != ALGORITHM:
            raise _invalid(f'alg must be "{ALGORITHM}"')


@dataclass(frozen=True, slots=True)
class _Message:
    """The request as the library looks at it, with no signature but ours."""

    method: str
    url: str
    headers: _Lines


class _Lines:
    """Header lines in their order."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def items(self) -> Iterator[tuple[str, str]]:
        return iter(self._lines)


class _OneKey(HTTPSignatureKeyResolver):
    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        return self._key


class _Verifier(HTTPMessageVerifier):
    # Age and expiry are judged here, before any key is looked at, by the gateway's own clock.
    max_clock_skew = timedelta(days=36_500)


def is_signed(headers: Headers) -> bool:
    """Whether the request has a signature that is meant for us. One of a proxy under another label is none."""
    values = headers.getlist("signature-input")
    return bool(values) and ("authorization" not in headers or any(f"{LABEL}=" in v for v in values))


async def check(request: Request, parts: Parts) -> AccessKey:
    """The key that signed the request, taken or not. Raises Problem: signature_invalid, signature_expired or
    signature_replayed."""
    inputs, signatures = _members(request.headers, "signature-input"), _members(request.headers, "signature")
    if LABEL not in inputs or LABEL not in signatures:
        raise _invalid(f'no signature has the label "{LABEL}"')
    components, parameters = inputs[LABEL]
    if not isinstance(components, list):
        raise _invalid("Signature-Input must list the covered components")
    given = _Input(components, parameters)
    _check_age(given, parts)
    body = await request.body()
    _check_coverage(given, request.headers, body)
    message = _message(request, parts, inputs, signatures)
    row = parts.access.get(keys.row_key(given.key_id))
    key = row if isinstance(row, AccessKey) and row.public_key else None
    public = Ed25519PublicKey.from_public_bytes(key.public_key) if key is not None else _NOBODY
    try:
        _Verifier(signature_algorithm=ED25519, key_resolver=_OneKey(public)).verify(message, max_age=None)
    except InvalidSignature:
        key = None
    if key is None:
        raise _invalid("the signature is not by this key over this request")
    # It may be of as long ahead as behind: until then the nonce must be known.
    if not await parts.gate.first_use(key.key_id, given.nonce, 2 * parts.settings.gateway.signature_age_s + 5):
        raise Problem("signature_replayed")
    return key


def _check_age(given: _Input, parts: Parts) -> None:
    now, most = parts.now_ms() / 1000, parts.settings.gateway.signature_age_s
    if abs(now - given.created) > most:
        raise Problem("signature_expired", _AGES.format(most))
    if given.expires is not None and now > given.expires:
        raise Problem("signature_expired", "the signature's own end is over")


def _check_coverage(given: _Input, headers: Headers, body: bytes) -> None:
    """That what decides what the request does is signed, the body by its digest."""
    digest = ", ".join(headers.getlist(DIGEST))
    needed = {*COVERED, *(name for name in COVERED_HEADERS if name in headers)}
    if body or digest:
        needed.add(DIGEST)
    missing = sorted(needed - given.covered)
    if missing:
        raise _invalid(f"the signature does not cover {', '.join(missing)}")
    if body or digest:
        try:
            ContentDigest.verify(digest, body)
        except (InvalidSignature, UnicodeError):
            raise _invalid("Content-Digest is missing, or is not the digest of the body") from None


def _message(request: Request, parts: Parts, inputs: dict[str, Any], signatures: dict[str, Any]) -> _Message:
    scope, headers = request.scope, request.headers
    hosts = headers.getlist("host")
    path = scope.get("raw_path") or b""
    target = path + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    # Put together to a URL, each part must stay what it is: a piece of path in Host would move the path's beginning.
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or not path.startswith(b"/") or b"?" in path or b"#" in target:
        raise _invalid("host, path and query are not in their plain form")
    own = {"signature-input": inputs, "signature": signatures}
    lines = [(name, value) for name, value in headers.items() if name not in own]
    lines += [(name, http_sf.ser({LABEL: members[LABEL]})) for name, members in own.items()]
    public = parts.settings.gateway.public_url
    scheme = public.partition(":")[0] if public else scope["scheme"]
    return _Message(request.method, f"{scheme}://{hosts[0]}{target.decode('latin-1')}", _Lines(lines))


def _members(headers: Headers, name: str) -> dict[str, Any]:
    """The members of a header that is a dictionary (RFC 8941). One that comes twice is no dictionary."""

    def twice(key: str, context: str) -> None:
        if context == "dictionary":
            raise ValueError(key)

    try:
        parsed = http_sf.parse(
            ", ".join(headers.getlist(name)).encode("ascii"), tltype="dictionary", on_duplicate_key=twice
        )
    except (ValueError, TypeError):  # UnicodeError is a ValueError
        raise _invalid(f"{name} is not a dictionary as RFC 8941 has it") from None
    return parsed if isinstance(parsed, dict) else {}


def _text(parameters: dict[str, Any], name: str) -> str:
    value = parameters.get(name)
    # A token is a kind of text to the library, but no string.
    if type(value) is not str:
        raise _invalid(f"{name} is missing, or not in quotes")
    return value


def _whole(parameters: dict[str, Any], name: str) -> int:
    value = parameters.get(name)
    if type(value) is not int:
        raise _invalid(f"{name} is missing, or no whole number of seconds")
    return value


def _invalid(detail: str) -> Problem:
    return Problem("signature_invalid", detail)
