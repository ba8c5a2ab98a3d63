"""Names that anybody can compute: a command's id, the digest of its payload, the partition of a partner.

They are part of the contract (a publisher in another language computes the same bytes), so they live beside the
schemas and are pinned by golden values in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec

from schemas.records import (
    COMMANDS,
    AdmitPartner,
    CloseDay,
    Command,
    Crossing,
    OperatorAct,
    PublishProduct,
    SealDay,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Tick,
    Transaction,
)

BANK = "bank"

_canonical = msgspec.msgpack.Encoder(order="sorted").encode
# Defaults are told by identity when they are left out: an equal text that was decoded is another object.
_texts = {
    kind: [(f.name, f.default) for f in msgspec.structs.fields(kind) if isinstance(f.default, str) and f.default]
    for kind in COMMANDS
}
_texts = {kind: texts for kind, texts in _texts.items() if texts}


def root_of(partner_id: str) -> str:
    """The root partner: the path's first part. `acme/shop-17` -> `acme`."""
    return partner_id.partition("/")[0]


def owner_of(account_id: str) -> str:
    """The partner that owns an account: the text before the first colon."""
    return account_id.partition(":")[0]


def command_id(partner_id: str, idempotency_key: str) -> bytes:
    """16 bytes that name a command everywhere: BLAKE2b-128 of partner, NUL, key (ids hold no NUL)."""
    return blake2b(f"{partner_id}\0{idempotency_key}".encode(), digest_size=16).digest()


def payload_digest(command: Command) -> bytes:
    """8 bytes that bind an idempotency key to its payload: BLAKE2b-64 of the command as MessagePack, map keys sorted.

    The digest is of the decoded fields, not of the received bytes, so a retry by another publisher, with another
    order of its metadata or a newer version of the schema, is still the same payload.
    """
    for name, default in _texts.get(type(command), ()):
        if getattr(command, name) == default:
            command = msgspec.structs.replace(command, **{name: default})
    return blake2b(_canonical((type(command).__name__, command)), digest_size=8).digest()


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2, as its Java clients use it to choose a partition."""
    mask, m, length = 0xFFFFFFFF, 0x5BD1E995, len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = h * m & mask ^ (k ^ k >> 24) * m & mask
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(partner_id: str, partitions: int) -> int:
    """The partition that holds a partner with its whole tree: murmur2 of the root partner's id, as Kafka's default."""
    return (murmur2(root_of(partner_id).encode()) & 0x7FFFFFFF) % partitions


def tree_of(command: Command) -> str:
    """The root partner whose partition a command belongs to; `bank` for what goes to every partition."""
    if isinstance(command, Transaction):
        if command.partner_id != BANK:
            return root_of(command.partner_id)
        # The payer's, else the first role's by name: a payload has one place, however its map is ordered.
        roles = sorted(command.accounts, key=lambda role: (role != "payer", role))
        named = [*(command.accounts[role] for role in roles), *(p.account_id for p in command.postings)]
        return next((r for r in (root_of(owner_of(a)) for a in named) if r != BANK), BANK)
    if isinstance(command, AdmitPartner | SetPartnerState | SetCalendar):
        return root_of(command.subject_id)
    if isinstance(command, SetLimit | SetFreeze):
        return {"partner": root_of(command.subject_id), "account": root_of(owner_of(command.subject_id))}.get(
            command.level, BANK
        )
    if isinstance(command, CloseDay | SealDay | Tick | PublishProduct | Crossing | OperatorAct):
        return BANK  # of every partition, or of the one that it names
    return root_of(owner_of(command.account_id))


def route_of(command: Command, partitions: int) -> tuple[bytes, Sequence[int]]:
    """Kafka key and partitions of a command: one partition, or all for what every partition must know.

    An operator's act has nothing to do with any partition; it stands once, where `bank` would have its partition.
    """
    root = tree_of(command)
    if isinstance(command, OperatorAct):
        return BANK.encode(), (_place_of(BANK, partitions),)
    if root == BANK and not isinstance(command, Transaction):
        return BANK.encode(), range(partitions)
    return root.encode(), (_place_of(root, partitions),)


@lru_cache(maxsize=100_000)  # a publisher names the same few roots again and again
def _place_of(root: str, partitions: int) -> int:
    return partition_of(root, partitions)
