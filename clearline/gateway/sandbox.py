"""A sandbox world: the bank's side of it, partners who let themselves in, and the way back to the beginning.

Everything here is said to the ledger by ordinary commands, the bank's own, under keys that follow from what they are
for. So each may be tried again, by this gateway or another one: it is a repeat, and nothing happens twice.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from clearline import keys
from clearline.fields import EPOCH
from clearline.gateway.asking import Wait, today_of
from clearline.gateway.documents import PENDING, REJECTED
from clearline.gateway.parts import Parts, Tree
from clearline.gateway.problems import Problem
from clearline.gateway.writes import Asked, Written, write_many
from clearline.product_file import read_product, shelf_files
from clearline.signing import new_key_pair
from ledger.names import within
from ledger.reasons import Reason
from schemas.errors import PartUnavailableError
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import (
    AccountState,
    AdmitPartner,
    CloseDay,
    Command,
    LimitState,
    OpenAccount,
    Posting,
    PublishProduct,
    SetLimit,
    Transaction,
)

WAIT = Wait(20, "")
WHO = "sandbox"
CURRENCIES = ("CNY", "USD")
MAGIC = ":magic:"  # accounts that force outcomes, and partners whose last name starts with magic-, are left alone
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Wallet(NamedTuple):
    """An account that a new partner gets. `funds`: minor units."""

    name: str
    currency: str
    funds: int


WALLETS = (
    Wallet("wallet:main", "CNY", 100_000_000), Wallet("wallet:shop", "CNY", 0), Wallet("wallet:usd", "USD", 10_000_000)
)  # fmt: skip


class Joined(NamedTuple):
    """What a new partner gets. `private_key`: PEM, empty when it sent a public key of its own."""

    partner_id: str
    token: str
    key_id: str
    private_key: str
    public_key: str


class Reset(NamedTuple):
    """What a reset did: holds voided, subjects whose limits were lifted, accounts and their balance in minor units."""

    voided: int
    limits: int
    accounts: tuple[tuple[str, str, int], ...]
    skipped: tuple[str, ...]


def name_of(*what: object) -> str:
    """The key of a command of the bank, from what it is for."""
    return "sandbox-" + sha256("\0".join(map(str, what)).encode()).hexdigest()[:40]


async def give(parts: Parts, commands: Sequence[Command]) -> list[Written]:
    """Gives commands, in their order, and waits for all outcomes. Raises Problem, PartUnavailableError."""
    written = await write_many(parts, [Asked(c) for c in commands], WAIT)
    out = []
    for command, found in zip(commands, written, strict=True):
        if isinstance(found, Exception):
            raise found
        if found.document["status"] == PENDING:
            what = f"{type(command).__name__} {command.idempotency_key} has no outcome after {WAIT.seconds} s"
            raise PartUnavailableError("Settlement", "the sandbox", what)
        out.append(found)
    return out


def _must(written: Sequence[Written], *fine: Reason) -> None:
    """Raises PartUnavailableError when one was rejected for another reason than these."""
    for w in written:
        reason = w.document["reason"]
        if w.document["status"] == REJECTED and reason not in fine:
            said = f"the sandbox's {w.document.get('command', 'transaction')} was rejected: {reason} {dict(w.detail)}"
            raise PartUnavailableError("Settlement", "the sandbox", said)


# ---- the world -------------------------------------------------------------------------------------------------------


async def prepare_world(parts: Parts) -> None:
    """The bank's accounts, and the products that come with Clearline when nothing is on the shelf; once per gateway."""
    lock = parts.memory.setdefault("sandbox.world", asyncio.Lock())
    async with lock:
        if parts.memory.get("sandbox.ready"):
            return
        commands: list[Command] = [
            OpenAccount(BANK, name_of("account", c), source_of(c), "equity", c, None, WHO) for c in CURRENCIES
        ]
        # A day that nobody does business on is closed, so that closing it once more is `day_closed`.
        commands.append(CloseDay(BANK, name_of("day", 0), 0, WHO, "a day that is closed, to be refused for"))
        if not await parts.reads.products():
            commands += [
                PublishProduct(BANK, name_of("product", p.product, p.document["version"]), p.product,
                               p.document["version"], 0, p.text, WHO, "the shelf of a sandbox")
                for p in map(read_product, shelf_files())
            ]  # fmt: skip
        _must(await give(parts, commands), Reason.ACCOUNT_EXISTS, Reason.DAY_CLOSED, Reason.PRODUCT_VERSION)
        parts.memory["sandbox.ready"] = True


def source_of(currency: str) -> str:
    """The bank's account that sandbox money comes from."""
    return f"bank:sandbox:{currency}"


def funds(parts: Parts, key: str, account_id: str, currency: str, amount: int, note: str) -> Transaction:
    """The bank's adjustment that puts money on an account, or takes it away when `amount` is below zero."""
    sides = ("debit", "credit") if amount > 0 else ("credit", "debit")
    legs = (Posting(source_of(currency), sides[0], abs(amount)), Posting(account_id, sides[1], abs(amount)))
    day = (today_of(parts) - EPOCH).days
    return Transaction(BANK, key, "", "adjustment", 0, currency, {}, legs, day, note=note)


# ---- a partner lets itself in ----------------------------------------------------------------------------------------


def new_partner_id(name: str) -> str:
    """A partner's id from a name in any script: what of it is a-z 0-9, and something random."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "partner"
    return f"{slug}-{''.join(secrets.choice(_LETTERS) for _ in range(6))}"


async def join(parts: Parts, name: str, public_key: str = "") -> Joined:
    """Admits a new root partner, live at once, with accounts, money and a key. Raises KeyFieldError,
    PartUnavailableError."""
    private = ""
    raw = keys.read_public_key(public_key) if public_key else b""
    if not public_key:
        private, public_key = new_key_pair()
        raw = keys.read_public_key(public_key)
    await prepare_world(parts)
    partner_id = new_partner_id(name)
    # The note is another one each time: were the same id drawn twice, this would be another payload under the key, and
    # not a repeat that lets somebody into a partner of somebody else.
    note = f"self-service {secrets.token_hex(8)}"
    commands: list[Command] = [AdmitPartner(BANK, name_of("admit", partner_id), partner_id, name, WHO, note, "live")]
    for w in WALLETS:
        account_id = f"{partner_id}:{w.name}"
        commands.append(OpenAccount(BANK, name_of("open", account_id), account_id, "liability", w.currency, 0, WHO))
        if w.funds:
            commands.append(funds(parts, name_of("fund", account_id), account_id, w.currency, w.funds, "sandbox money"))
    try:
        _must(await give(parts, commands))
    except Problem as e:
        raise PartUnavailableError("Settlement", "the sandbox", f"{partner_id} is taken: {e.code}") from None
    made = keys.make(
        partner_id, keys.ALL_SCOPES, sandbox=True, now_ms=parts.now_ms(), requested_by=WHO, public_key=raw,
        note="made with the partner",
    )  # fmt: skip
    await asyncio.to_thread(parts.access.put, keys.row_key(made.key.key_id), made.key)
    return Joined(partner_id, made.token, made.key.key_id, private, public_key)


# ---- and begins anew -------------------------------------------------------------------------------------------------


async def reset(parts: Parts, partner_id: str) -> Reset:
    """Voids the open holds of a partner's tree, lifts its limits, and brings the accounts that came with it back to
    their first balance. Keys, history, and what it opened itself stay. Raises PartUnavailableError."""
    await prepare_world(parts)
    root = root_of(partner_id)
    before = await parts.tree(root)
    voided = await _void_holds(parts, partner_id, before)
    limits, offset = await _lift_limits(parts, partner_id, before)
    accounts, skipped = [], []
    if partner_id == root:
        tree = await _tree_after(parts, root, offset)
        for w in WALLETS:
            account = tree.accounts.get(f"{root}:{w.name}")
            if account is None:
                continue
            if await _refill(parts, account, w.funds):
                accounts.append((account.account_id, w.currency, w.funds))
            else:
                skipped.append(account.account_id)
    return Reset(voided, limits, tuple(accounts), tuple(skipped))


async def _void_holds(parts: Parts, partner_id: str, tree: Tree) -> int:
    """A void is given by whom the hold is, under the key of the hold, which only its journal record has."""
    commands: list[Command] = []
    day = (today_of(parts) - EPOCH).days
    partition = partition_of(root_of(partner_id), parts.partitions)
    for hold in tree.holds:
        if not within(hold.partner_id, partner_id):
            continue
        found = await parts.finder.at(partition, hold.opened_at_offset)
        if found is None:
            continue
        r = found.record
        commands.append(
            Transaction(r.partner_id, name_of("void", hold.hold_id.hex()), r.product, "void", 0, hold.currency, {}, (),
                        day, original=r.idempotency_key)
        )  # fmt: skip
    written = await give(parts, commands) if commands else []
    return sum(w.document["status"] != REJECTED for w in written)


async def _lift_limits(parts: Parts, partner_id: str, tree: Tree) -> tuple[int, int]:
    """Lifts the limits of the tree's partners and accounts. Returns of how many, and the offset of the last command."""
    subjects = [(r.level, r.subject_id) for r in tree.limits if _is_own(r, partner_id)]
    lifted = list(subjects)
    if ("partner", partner_id) not in subjects:
        subjects.append(("partner", partner_id))  # lifts nothing, and says up to where the state must have been read
    token = secrets.token_hex(8)
    written = await give(
        parts,
        [SetLimit(BANK, name_of("lift", token, *s), *s, (), WHO, "the sandbox is reset") for s in subjects],
    )
    _must(written)
    return len(lifted), int(written[-1].document["position"]["offset"])


def _is_own(row: LimitState, partner_id: str) -> bool:
    """Whether a reset lifts these limits: what forces outcomes keeps its own."""
    owner = owner_of(row.subject_id) if row.level == "account" else row.subject_id
    return (
        within(owner, partner_id) and MAGIC not in row.subject_id and not owner.rpartition("/")[2].startswith("magic-")
    )


async def _tree_after(parts: Parts, root: str, offset: int) -> Tree:
    """The tree with the command at this offset in it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT.seconds
    while (tree := await parts.tree(root)).next_offset <= offset:
        if loop.time() > deadline:
            raise PartUnavailableError("ledger.state", root, f"it is behind offset {offset} after {WAIT.seconds} s")
        await asyncio.sleep(0.05)
    return tree


async def _refill(parts: Parts, account: AccountState, wanted: int) -> bool:
    """Brings a balance to `wanted` minor units; False when the account takes nothing any more.

    The key says which counters were read. So a second reset that read the same ones asks for the same thing once.
    """
    lacks = wanted - (account.credits_posted - account.debits_posted)
    if not lacks:
        return True
    key = name_of("refill", account.account_id, account.debits_posted, account.credits_posted)
    adjustment = funds(parts, key, account.account_id, account.currency, lacks, "the sandbox is reset")
    (written,) = await give(parts, [adjustment])
    return bool(written.document["status"] != REJECTED)
