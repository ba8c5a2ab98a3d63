"""Partners' keys: made, checked, rotated, revoked. Pure: rows in, rows out; the table `access` keeps them under `k:ID`.

A secret is 256 random bits, so one round of SHA-256 is enough to keep it by: there is nothing to guess that a slow hash
would protect, and each call checks one.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ledger.names import PARTNER_ID
from schemas.errors import BadInputError
from schemas.identity import BANK, root_of
from schemas.records import AccessKey

ROW_PREFIX = "k:"
KEY_ID = re.compile(r"[a-z0-9]{16}", re.ASCII)
TOKEN = re.compile(r"(?P<world>test|live)_(?P<key_id>[a-z0-9]{16})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)
THUMBPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)
SIMPLE_SCOPES = ("read", "accounts", "limits", "webhooks", "keys", "reports", "data")
STAFF_SCOPES = ("reports", "status", "operate")  # of a key of the bank; the last two are no partner's
_STAFF_ONLY = frozenset(STAFF_SCOPES) - set(SIMPLE_SCOPES)
ALL_SCOPES = (*SIMPLE_SCOPES, "transact:*:*")
SCOPES_MAX = 200
NOTE_MAX = 500
HOLDER = re.compile(r"[a-z][a-z0-9._-]{0,63}", re.ASCII)
_TRANSACT = re.compile(r"transact:(\*|[a-z][a-z0-9-]{0,63}):(\*|[a-z][a-z0-9_]{0,31})", re.ASCII)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_NO_HASH = sha256(b"of no secret").digest()


class KeyFieldError(BadInputError):
    """A field of a key breaks its rule."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class Made(NamedTuple):
    """A new key, and the token whose secret is kept nowhere: show it once."""

    key: AccessKey
    token: str


class Token(NamedTuple):
    """A bearer token in its parts."""

    world: str
    key_id: str
    secret: str


def row_key(key_id: str) -> str:
    """Where the table `access` has a key."""
    return ROW_PREFIX + key_id


def world_prefix(sandbox: bool) -> str:
    """What tokens of a world begin with."""
    return "test" if sandbox else "live"


def make(
    partner_id: str,
    scopes: Iterable[str],
    *,
    sandbox: bool,
    now_ms: int,
    requested_by: str,
    key_id: str = "",
    public_key: bytes = b"",
    signature: str = "optional",
    thumbprint: str = "",
    expires_at: int = 0,
    note: str = "",
    replaces: str = "",
    payload_digest: bytes = b"",
    holder: str = "",
) -> Made:
    """A new key of a partner, or of the bank's staff, with a new secret. `key_id`: a random one unless given;
    `public_key`: 32 bytes; `expires_at`: milliseconds UTC, 0 never; `replaces`: the key whose place it takes; `holder`:
    the person of the staff whose it is. Raises KeyFieldError."""
    if not PARTNER_ID.fullmatch(partner_id) or (root_of(partner_id) == BANK and partner_id != BANK):
        raise KeyFieldError("partner_id", f"{partner_id!r} is no partner that may have keys")
    granted = joined(scopes)
    _check_staff(partner_id, scopes_of(granted), holder)
    if signature not in ("optional", "required"):
        raise KeyFieldError("signature", "must be optional or required")
    if signature == "required" and not public_key:
        raise KeyFieldError("public_key", "is missing: signed requests are checked by it")
    if thumbprint and not THUMBPRINT.fullmatch(thumbprint):
        raise KeyFieldError("thumbprint", "must be the SHA-256 of the certificate, 64 hexadecimal digits")
    if expires_at and expires_at <= now_ms:
        raise KeyFieldError("expires_at", "must be in the future")
    if len(note) > NOTE_MAX or not note.isprintable():
        raise KeyFieldError("note", f"must be at most {NOTE_MAX} printable characters")
    secret = secrets.token_urlsafe(32)
    key = AccessKey(
        key_id or new_id(), partner_id, hash_of(secret), public_key, signature, thumbprint, granted, now_ms,
        expires_at, 0, requested_by, note, replaces, payload_digest, holder,
    )  # fmt: skip
    return Made(key, f"{world_prefix(sandbox)}_{key.key_id}_{secret}")


def _check_staff(partner_id: str, scopes: frozenset[str], holder: str) -> None:
    """What only the bank's staff has, and what it does not have. Raises KeyFieldError."""
    if partner_id != BANK:
        if found := sorted(scopes & _STAFF_ONLY):
            raise KeyFieldError("scopes", f"{found[0]} is for keys of the bank's staff only")
        if holder:
            raise KeyFieldError("holder", "is for keys of the bank's staff only")
        return
    if not scopes <= set(STAFF_SCOPES):
        raise KeyFieldError("scopes", f"a key of the bank has scopes of {', '.join(STAFF_SCOPES)} and no other")
    if holder and not HOLDER.fullmatch(holder):
        raise KeyFieldError("holder", f"must be a person's short name, {HOLDER.pattern}")
    if "operate" in scopes and not holder:
        raise KeyFieldError("holder", "is missing: who changes things must have a name that acts are recorded under")


def rotate(
    old: AccessKey, *, sandbox: bool, now_ms: int, overlap_ms: int, requested_by: str, note: str = ""
) -> tuple[Made, AccessKey]:
    """A new key that may do what the old one may, and the old one, which ends `overlap_ms` from now (sooner when it
    would have ended sooner). Raises KeyFieldError when the old one has ended already."""
    if not taken(old, now_ms):
        raise KeyFieldError("replaces", f"key {old.key_id} is not taken any more; make a new one")
    if overlap_ms < 0:
        raise KeyFieldError("overlap_s", "must not be negative")
    made = make(
        old.partner_id, scopes_of(old.scopes), sandbox=sandbox, now_ms=now_ms, requested_by=requested_by,
        public_key=old.public_key, signature=old.signature, thumbprint=old.thumbprint, note=note or old.note,
        replaces=old.key_id, holder=old.holder,
    )  # fmt: skip
    return made, ending(old, now_ms, overlap_ms)


def ending(old: AccessKey, now_ms: int, overlap_ms: int) -> AccessKey:
    """The key with its end `overlap_ms` from now, unless it ends sooner anyway."""
    end = max(1, now_ms + overlap_ms)
    return msgspec.structs.replace(old, expires_at=min(old.expires_at or end, end))


def revoke(key: AccessKey, now_ms: int) -> AccessKey:
    """The key, revoked; one that was revoked before stays as it is."""
    return key if key.revoked_at else msgspec.structs.replace(key, revoked_at=now_ms)


def taken(key: AccessKey, now_ms: int) -> bool:
    """Whether the key is neither revoked nor over."""
    return not key.revoked_at and (not key.expires_at or now_ms < key.expires_at)


def state(key: AccessKey, now_ms: int) -> str:
    """In a word: active, revoked or expired."""
    return "revoked" if key.revoked_at else "active" if taken(key, now_ms) else "expired"


def new_id() -> str:
    """A random key id."""
    return "".join(secrets.choice(LETTERS) for _ in range(16))


def hash_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return sha256(secret.encode()).digest()


def matches(key: AccessKey | None, secret: str) -> bool:
    """Whether the secret is the key's. Takes the same time for a key that does not exist."""
    same = hmac.compare_digest(hash_of(secret), key.secret_hash if key is not None else _NO_HASH)
    return same and key is not None


def read_token(text: str) -> Token | None:
    """The parts of a bearer token; None for what is none."""
    found = TOKEN.fullmatch(text)
    return Token(found["world"], found["key_id"], found["secret"]) if found is not None else None


def joined(scopes: Iterable[str]) -> str:
    """Scopes as a key has them. Raises KeyFieldError for one that does not exist, and for none at all."""
    wanted = sorted(set(scopes))
    if not 1 <= len(wanted) <= SCOPES_MAX:
        raise KeyFieldError("scopes", f"must be 1 to {SCOPES_MAX} scopes")
    for scope in wanted:
        if scope not in SIMPLE_SCOPES and scope not in _STAFF_ONLY and not _TRANSACT.fullmatch(scope):
            known = ", ".join(SIMPLE_SCOPES)
            raise KeyFieldError("scopes", f"{scope[:80]!r} is no scope; known are {known}, transact:PRODUCT:OPERATION")
    return " ".join(wanted)


@lru_cache(4096)
def scopes_of(text: str) -> frozenset[str]:
    """The scopes in a key's text."""
    return frozenset(text.split())


# Points of small order, by all their encodings but for the sign: a signature by one of them fits many messages, and
# anybody can make it. Who registers one could say of whatever he signed that it was somebody else.
_WEAK = frozenset(
    int.from_bytes(bytes.fromhex(h), "little")
    for h in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
) | {0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18}


def read_public_key(text: str) -> bytes:
    """An Ed25519 public key in PEM, or its 32 bytes in base64, base64url or hexadecimal. Raises KeyFieldError."""
    raw = _public_key(text)
    if int.from_bytes(raw, "little") % 2**255 in _WEAK:
        raise KeyFieldError("public_key", "is a weak key, by which anybody can sign; make a new pair")
    return raw


def _public_key(text: str) -> bytes:
    if "BEGIN" in text:
        try:
            key = load_pem_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFieldError("public_key", "is not a public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFieldError("public_key", "must be an Ed25519 key")
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    raw = _decoded(text.strip())
    try:
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise KeyFieldError("public_key", "must be an Ed25519 key: PEM, or 32 bytes in base64 or hexadecimal") from None
    return raw


def _decoded(text: str) -> bytes:
    import base64
    import binascii

    try:
        if re.fullmatch(r"[0-9a-fA-F]{64}", text):
            return bytes.fromhex(text)
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def document(key: AccessKey, now_ms: int) -> dict[str, Any]:
    """A key for people and for JSON: everything but what its secret could be guessed by. Times in milliseconds."""
    return {
        "key_id": key.key_id, "partner_id": key.partner_id, "state": state(key, now_ms),
        "scopes": key.scopes.split(), "signature": key.signature, "public_key": key.public_key.hex() or None,
        "thumbprint": key.thumbprint or None, "created_at": key.created_at, "expires_at": key.expires_at or None,
        "revoked_at": key.revoked_at or None, "requested_by": key.requested_by, "note": key.note,
        "replaces": key.replaces or None, **({"holder": key.holder} if key.holder else {}),
    }  # fmt: skip
