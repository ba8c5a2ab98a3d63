"""Records of the gateway and of its webhooks: calls, keys, subscriptions, what waits to be delivered, onboarding.

`schemas.records` has all of these names too. The ledger knows none of them. Times are milliseconds since 1970-01-01
UTC; amounts are minor units.
"""

from __future__ import annotations

from schemas.commands import Record


class CallCount(Record, frozen=True, gc=False):
    """The calls of one minute, partner, method, route and status. `minute`: milliseconds UTC; times in microseconds."""

    minute: int
    partner_id: str
    method: str
    route: str
    status: int
    calls: int
    micros_sum: int
    micros_max: int
    buckets: dict[str, str]


class CallCounts(Record, frozen=True, gc=False):
    """What one gateway process answered since it last told."""

    instance: str
    counts: tuple[CallCount, ...]


class AccessKey(Record, frozen=True, gc=False):
    """A partner's credential, by its id. `secret_hash`: SHA-256 of the secret; `public_key`: Ed25519, 32 bytes, empty
    for none; `scopes`: separated by spaces, sorted; times in milliseconds UTC, 0 for never. `payload_digest`: of what
    was asked for under an idempotency key, so that a repeat is known. `holder`: the person of the bank's staff whose it
    is."""

    key_id: str
    partner_id: str
    secret_hash: bytes
    public_key: bytes
    signature: str
    thumbprint: str
    scopes: str
    created_at: int
    expires_at: int
    revoked_at: int
    requested_by: str
    note: str
    replaces: str = ""
    payload_digest: bytes = b""
    holder: str = ""


class Want(Record, frozen=True, gc=False):
    """One kind of event that a subscription gets. `amount`: minor units; what an event does not need is empty or 0."""

    type: str
    account_id: str = ""
    normal: str = ""
    amount: int = 0
    percent: int = 0
    lead_s: int = 0


class SealedSecret(Record, frozen=True, gc=False):
    """One signing secret, encrypted. `ends_at`: milliseconds UTC, 0 as long as there is no newer one."""

    sealed: bytes
    made_at: int
    ends_at: int
    asked: str


class Subscription(Record, frozen=True, gc=False):
    """A partner's webhook subscription, by its id. Times in milliseconds UTC, 0 for never."""

    subscription_id: str
    partner_id: str
    url: str
    note: str
    state: str
    wants: tuple[Want, ...]
    secrets: tuple[SealedSecret, ...]
    created_at: int
    verified_at: int
    changed_at: int
    asked: str
    requested_by: str


class Delivery(Record, frozen=True, gc=False):
    """A notification that is not delivered yet, or dead. Times in milliseconds UTC, 0 for never."""

    delivery_id: str
    subscription_id: str
    number: int
    ordering: str
    event: str
    body: bytes
    state: str
    attempts: int
    next_at: int
    queued_at: int
    created_at: int
    died_at: int
    error: str
    status: int
    source_sequence: int


class Notice(Record, frozen=True, gc=False):
    """What a subscription was told already, so that it is told once."""

    subscription_id: str
    subject: str
    value: int


class WebhookProgress(Record, frozen=True, gc=False):
    """Where the webhook worker stands in one partition."""

    journal_next: int
    state_next: int
    next_number: int


class Redelivery(Record, frozen=True, gc=False):
    """Somebody asks for a delivery again. `requested_at`: milliseconds UTC."""

    delivery_id: str
    subscription_id: str
    partition: int
    requested_at: int
    requested_by: str


class PassedCheck(Record, frozen=True, gc=False):
    """One check of the inspection that was seen to pass, and when first, in milliseconds UTC."""

    name: str
    passed_at: int


class Onboarding(Record, frozen=True, gc=False):
    """How far a partner is from the sandbox to live. Times in milliseconds UTC, 0 for never."""

    partner_id: str
    checks: tuple[PassedCheck, ...]
    requested_by: str = ""
    requested_at: int = 0
    note: str = ""
    approved_by: str = ""
    approved_at: int = 0
    approval: str = ""
    live_as: str = ""
