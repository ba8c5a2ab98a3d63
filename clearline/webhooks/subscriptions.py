"""A subscription: what a partner asks for, the row that is kept of it, and the document that is answered.

Pure but for the secrets, which are random. Times are milliseconds UTC.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, StringConstraints, model_validator

from clearline.fields import AccountId, Input, Limit, stop
from clearline.gateway.documents import iso_time
from clearline.vault import Vault
from clearline.webhooks.interest import ABOVE, BELOW, EXPIRING, LIMIT
from clearline.webhooks.sender import bound_to
from clearline.webhooks.targets import URL_CHARS_MAX
from schemas.records import Delivery, SealedSecret, Subscription, Want

NEW, VERIFIED, DISABLED, DELETED = "new", "verified", "disabled", "deleted"
EVENTS_MAX = 50
NOTE_MAX = 200
SECRET_BYTES = 32
OVERLAP_MS = SHOWN_MS = 86_400_000  # how long two secrets sign, and for how long a retry is shown the secret again
LEAD_S, PERCENT = 3_600, 80

# What an event needs beside its type, and what it has when nothing is said.
_NEEDS: dict[str, tuple[str, ...]] = {BELOW: ("account_id", "amount"), ABOVE: ("account_id", "amount")}
_TAKES: dict[str, dict[str, int]] = {LIMIT: {"percent": PERCENT}, EXPIRING: {"lead_s": LEAD_S}}


class EventInput(Input):
    """One kind of event. `account_id`, `amount` (minor units): of balance.below and balance.above; `percent`: of
    limit.reached; `lead_s`: seconds before a hold lapses, of hold.expiring."""

    type: Literal[
        "transaction.settled", "transaction.rejected", "hold.expired", "hold.expiring", "balance.below",
        "balance.above", "limit.reached", "day.quiet",
    ]  # fmt: skip
    account_id: AccountId | None = None
    amount: Limit = None
    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    lead_s: Annotated[int, Field(ge=60, le=2_592_000)] | None = None

    @model_validator(mode="after")
    def _what_it_needs(self) -> EventInput:
        taken = (*_NEEDS.get(self.type, ()), *_TAKES.get(self.type, {}))
        for name in ("account_id", "amount", "percent", "lead_s"):
            value = getattr(self, name)
            if value is None and name in _NEEDS.get(self.type, ()):
                stop(f"{name} is missing: {self.type} needs it")
            if value is not None and name not in taken:
                stop(f"{name} is not used by {self.type}; leave it out")
        return self


Url = Annotated[str, StringConstraints(min_length=1, max_length=URL_CHARS_MAX)]
Note = Annotated[str, StringConstraints(max_length=NOTE_MAX)]
Events = Annotated[list[EventInput], Field(min_length=1, max_length=EVENTS_MAX)]


class WebhookInput(Input):
    """A subscription to be made."""

    url: Url
    events: Events
    note: Note = ""


class WebhookChange(Input):
    """What is to be changed of a subscription; another `url` must be verified anew."""

    url: Url | None = None
    events: Events | None = None
    note: Note | None = None
    state: Literal["verified", "disabled"] | None = None


def digest(*what: Any) -> str:
    """BLAKE2b-64 of what JSON can hold, in hexadecimal: to tell whether the same is asked for again."""
    return blake2b(msgspec.msgpack.encode(what, order="sorted"), digest_size=8).hexdigest()


def subscription_id(partner_id: str, idempotency_key: str) -> str:
    """The id of the subscription that a partner makes under a key: the same for every try."""
    name = f"webhook\0{partner_id}\0{idempotency_key}".encode()
    return f"wh_{blake2b(name, digest_size=16).hexdigest()}"


def row_key(name: str) -> str:
    """Under which key of `access` a subscription is."""
    return f"s:{name}"


def want_of(e: EventInput, normal: str = "") -> Want:
    """What is kept of an event that is asked for. `normal`: the own side of its account."""
    default = _TAKES.get(e.type, {})
    return Want(
        e.type, e.account_id or "", normal, e.amount or 0, e.percent or default.get("percent", 0),
        e.lead_s or default.get("lead_s", 0),
    )  # fmt: skip


def new_secret(name: str, vault: Vault, asked: str, now_ms: int) -> SealedSecret:
    """A random signing secret, sealed."""
    return SealedSecret(vault.seal(secrets.token_bytes(SECRET_BYTES), bound_to(name)), now_ms, 0, asked)


def secret_text(s: Subscription, vault: Vault) -> str:
    """The newest secret as Standard Webhooks writes it. Raises BadInputError when the vault cannot open it."""
    return "whsec_" + base64.b64encode(vault.open(s.secrets[0].sealed, bound_to(s.subscription_id))).decode()


def rotated(s: Subscription, vault: Vault, asked: str, now_ms: int) -> Subscription:
    """With a new secret; the one before it signs beside it for a day, and one before that no more."""
    before = msgspec.structs.replace(s.secrets[0], ends_at=now_ms + OVERLAP_MS)
    new = new_secret(s.subscription_id, vault, asked, now_ms)
    return msgspec.structs.replace(s, secrets=(new, before), changed_at=now_ms)


def verified(s: Subscription, now_ms: int) -> Subscription:
    """From now on it gets events."""
    return msgspec.structs.replace(s, state=VERIFIED, verified_at=now_ms, changed_at=now_ms)


def changed(s: Subscription, asked: WebhookChange, wants: tuple[Want, ...] | None, now_ms: int) -> Subscription:
    """As it is after a change."""
    fields: dict[str, Any] = {}
    if asked.note is not None:
        fields["note"] = asked.note
    if wants is not None:
        fields["wants"] = wants
    if asked.url is not None and asked.url != s.url:
        fields.update(url=asked.url, state=NEW)
    elif asked.state is not None and asked.state != s.state:
        fields["state"] = asked.state
        if asked.state == VERIFIED:
            fields["verified_at"] = now_ms
    return msgspec.structs.replace(s, **fields, changed_at=now_ms) if fields else s


def deleted(s: Subscription, now_ms: int) -> Subscription:
    """What stays of one that is gone: its id, so that it is not used again, and what was asked for."""
    return msgspec.structs.replace(s, state=DELETED, url="", note="", wants=(), secrets=(), changed_at=now_ms)


def document(s: Subscription, now_ms: int, secret: str | None = None) -> dict[str, Any]:
    """A subscription as it is answered; `secret` only where it is shown."""
    return {
        "id": s.subscription_id,
        "partner_id": s.partner_id,
        "url": s.url,
        "note": s.note,
        "state": s.state,
        "events": [_event(w) for w in s.wants],
        "created_at": iso_time(s.created_at),
        "verified_at": iso_time(s.verified_at) if s.verified_at else None,
        "secrets": [
            {"made_at": iso_time(k.made_at), "ends_at": iso_time(k.ends_at) if k.ends_at else None}
            for k in s.secrets
            if not k.ends_at or k.ends_at > now_ms
        ],
        **({"secret": secret} if secret is not None else {}),
    }


def _event(w: Want) -> dict[str, Any]:
    names = (*_NEEDS.get(w.type, ()), *_TAKES.get(w.type, {}))
    return {"type": w.type, **{name: getattr(w, name) for name in names}}


def delivery_document(d: Delivery) -> Mapping[str, Any]:
    """A delivery as it is answered."""
    return {
        "id": d.delivery_id,
        "event": d.event,
        "account": d.ordering,
        "state": d.state,
        "attempts": d.attempts,
        "created_at": iso_time(d.created_at),
        "next_at": iso_time(d.next_at) if d.state == "pending" else None,
        "died_at": iso_time(d.died_at) if d.died_at else None,
        "last_error": d.error or None,
        "last_status": d.status or None,
        "body": msgspec.json.decode(d.body),
    }
