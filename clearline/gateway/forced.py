"""Magic amounts and accounts: a sandbox replaces a transaction by one that the ledger rejects for a wanted reason.

The ledger is the ordinary one and knows nothing of it. What comes back is its own rejection, from the journal, by the
ordinary path: same documents, same repeats. What a rejection needs beforehand (a frozen account, a suspended partner, a
hold that has lapsed) is prepared below the partner, once, or for each call under keys that follow from the caller's.

A reason is numbered as in docs/sandbox.md: the amount 770000036 asks for the 36th; so does an account `X:force:REASON`.
Numbers stay as they are: a reason that came later is numbered after all before it, wherever the ledger looks for it.
Five reasons no caller can meet on purpose; the gateway gives them itself, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import orjson

from clearline.gateway import sandbox
from clearline.gateway.documents import REJECTED
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.sandbox import WHO, funds, give, name_of
from clearline.gateway.writes import Asked, Written
from ledger.money import AMOUNT_MAX
from ledger.reasons import Reason
from schemas.identity import BANK, command_id
from schemas.records import (
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    CloseDay,
    Command,
    Limit,
    NamedAmount,
    OpenAccount,
    Posting,
    PublishProduct,
    SealDay,
    SealedPlace,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Transaction,
)

AMOUNT = 770_000_000  # and the number of the reason
FORCE = ":force:"
_LATER = (Reason.WORLD_FROZEN, Reason.PARTNER_FROZEN, Reason.PRODUCT_FROZEN, Reason.OWNER_FROZEN)
REASONS = (*(r for r in Reason if r not in _LATER), *_LATER)
SIMULATED = {
    Reason.COUNTER_OVERFLOW: "takes more postings than any ledger will ever have",
    Reason.CROSSING_UNKNOWN: "is an answer between partitions, never one to a caller",
    Reason.DAY_SEALED: "is met only by the program that closes the bank's days",
    Reason.WORLD_FROZEN: "would stop everybody in this sandbox",
    Reason.PRODUCT_FROZEN: "would stop everybody's transactions of a product",
}
_LAST_DAY = 120_529
_DEEPEST = 7  # levels above those that are prepared below a partner
_KNOWN_WITHIN_S = 2.0
_LAPSES_AFTER_MS = (20, 200, 2_000)


class Scene(NamedTuple):
    """What a replacement is made from. `t`: what was asked."""

    parts: Parts
    t: Transaction

    @property
    def by(self) -> str:
        """Who asks."""
        return self.t.partner_id

    def account(self, name: str) -> str:
        """A prepared account."""
        return f"{self.by}:magic:{name}"

    def key(self, what: str) -> str:
        """A key of the partner's that follows from the caller's own."""
        return name_of(what, command_id(self.by, self.t.idempotency_key).hex())

    def pay(self, operation: str = "transfer", amount: int = 1, **more: Any) -> Transaction:
        """The caller's transaction, as one of the wallet between two prepared accounts."""
        plain = {"payer": self.account("a"), "payee": self.account("b")}
        wanted: dict[str, Any] = {
            "product": "wallet", "operation": operation, "amount": amount, "currency": "CNY", "accounts": plain,
            "postings": (), "original": "", "final": False, "expires_at": 0, "note": "", "amounts": (), "rate": "",
            "exponent": -1, **more,
        }  # fmt: skip
        return msgspec.structs.replace(self.t, **wanted)

    def to(self, payee: str = "b", payer: str = "a", **more: Any) -> Transaction:
        """The same between other prepared accounts."""
        return self.pay(accounts={"payer": self.account(payer), "payee": self.account(payee)}, **more)

    def later(self, operation: str, original: str, amount: int = 0) -> Transaction:
        """An operation on an earlier transaction."""
        return self.pay(operation, amount, accounts={}, original=original)

    def open(self, account_id: str) -> OpenAccount:
        """The partner opens an account."""
        return OpenAccount(self.by, self.t.idempotency_key, account_id, "liability", "CNY", 0)

    def banks(self, kind: Callable[..., Command], *fields: Any) -> Command:
        """A command of the bank, in place of the caller's."""
        return kind(BANK, self.key("bank"), *fields)

    async def first(self, name: str, wanted: Transaction) -> str:
        """Has the partner do something beforehand. Returns its key."""
        key = self.key(name)
        _check(await give(self.parts, [msgspec.structs.replace(wanted, idempotency_key=key)]))
        return key


def reason_of(command: Transaction) -> Reason | None:
    """The reason that a transaction asks for, None for an ordinary one."""
    number = command.amount - AMOUNT
    if 1 <= number <= len(REASONS):
        return REASONS[number - 1]
    for account_id in command.accounts.values():
        _, found, name = account_id.partition(FORCE)
        if found and name in REASONS:
            return Reason(name)
    return None


async def replaced(parts: Parts, asked: Asked) -> Asked:
    """What is published for what was asked: itself, or in a sandbox what is rejected for the reason that it asks for.

    Raises Problem for the two reasons that no command can meet, PartUnavailableError.
    """
    t = asked.command
    if not parts.settings.sandbox or not isinstance(t, Transaction):
        return asked
    reason = reason_of(t)
    if reason is None:
        return asked
    if reason in SIMULATED:
        raise Problem(reason.value, f"simulated by the sandbox: {reason.value} {SIMULATED[reason]}")
    await sandbox.prepare_world(parts)
    scene = Scene(parts, t)
    if not await _prepared(scene):
        return asked  # the ledger will say why the partner may do nothing
    made = _MADE[reason](scene)
    command: Command = await made if asyncio.iscoroutine(made) else made
    return Asked(command, asked.undated and isinstance(command, Transaction))


# ---- what is prepared below a partner --------------------------------------------------------------------------------


async def _prepared(scene: Scene) -> bool:
    """Prepares a partner's accounts and those below it, once; False when the partner may not act at all."""
    parts, by = scene.parts, scene.by
    done: dict[str, asyncio.Lock | bool] = parts.memory.setdefault("sandbox.forced", {})
    state = done.get(by)
    if state is True:
        return True
    if by.count("/") >= _DEEPEST:
        raise Problem("forbidden", "magic needs room for partners below: ask in the name of one that is less deep")
    lock = state if isinstance(state, asyncio.Lock) else done.setdefault(by, asyncio.Lock())
    assert isinstance(lock, asyncio.Lock)
    async with lock:
        if done.get(by) is True:
            return True
        if await _state_of(parts, by) != "live":
            return False
        _check(await give(parts, _ground(scene)), *_AGAIN)
        done[by] = True
    return True


async def _state_of(parts: Parts, partner_id: str) -> str:
    """A partner's state; one that has just been admitted may not be known to this gateway for a moment."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _KNOWN_WITHIN_S
    while (row := await parts.reads.partner(partner_id)) is None and loop.time() < deadline:
        await asyncio.sleep(0.05)
    return row.state if row is not None else ""


# What the ground is rejected with when its keys are over 30 days old, and everything stands already.
_AGAIN = (
    Reason.ACCOUNT_EXISTS, Reason.ACCOUNT_CLOSED, Reason.PARTNER_EXISTS, Reason.STATE_TRANSITION, Reason.PARTNER_STATE,
    Reason.PARTNER_SUSPENDED, Reason.PARTNER_FROZEN,
)  # fmt: skip


def _ground(scene: Scene) -> list[Command]:
    by, account = scene.by, scene.account
    below = {name: f"{by}/magic-{name}" for name in ("suspended", "applied", "leaving")}
    out: list[Command] = []

    def key() -> str:
        return name_of("ground", by, len(out))

    def opens(account_id: str, currency: str = "CNY", amount: int = 0) -> None:
        out.append(OpenAccount(BANK, key(), account_id, "liability", currency, 0, WHO))
        if amount:
            out.append(funds(scene.parts, key(), account_id, currency, amount, "magic"))

    def blocks(account_id: str, debits: bool, credits: bool, freeze: bool = False) -> None:
        out.append(BlockAccount(BANK, key(), account_id, debits, credits, WHO, "magic", freeze))

    def becomes(partner: str, state: str) -> None:
        out.append(SetPartnerState(BANK, key(), partner, state, WHO, "magic"))

    opens(account("a"), amount=10**9)
    for name in ("b", "c", "closed", "frozen", "no-credits"):
        opens(account(name))
    opens(account("usd"), "USD")
    for name in ("no-debits", "limited"):
        opens(account(name), amount=1_000)
    opens(account("huge"), amount=AMOUNT_MAX)
    out.append(funds(scene.parts, key(), account("huge"), "CNY", AMOUNT_MAX, "magic"))
    out.append(CloseAccount(BANK, key(), account("closed"), WHO, "magic"))
    blocks(account("frozen"), False, False, freeze=True)
    blocks(account("no-credits"), False, True)
    blocks(account("no-debits"), True, False)
    nothing = (Limit("transaction", "CNY", None, 0),)
    out.append(SetLimit(BANK, key(), "account", account("limited"), nothing, WHO, "magic"))
    for name, partner in below.items():
        state = "applied" if name == "applied" else "live"
        out.append(AdmitPartner(BANK, key(), partner, f"Magic: {name}", WHO, "magic", state))
    opens(f"{below['suspended']}:w")
    becomes(below["suspended"], "suspended")
    opens(f"{below['leaving']}:w", amount=1_000)
    blocks(f"{below['leaving']}:w", True, True)
    becomes(below["leaving"], "exiting")
    # What came later stands at the end: the keys above are those of partners that were prepared before.
    frozen = _below(scene, "frozen")
    out.append(AdmitPartner(BANK, key(), frozen, "Magic: frozen", WHO, "magic", "live"))
    opens(f"{frozen}:w")
    out.append(SetFreeze(BANK, key(), "partner", frozen, True, WHO, "magic"))
    return out


def _check(written: Sequence[Written], *fine: Reason) -> None:
    for w in written:
        if w.document["status"] == REJECTED and w.document["reason"] not in fine:
            raise Problem("unavailable", f"the sandbox could not prepare it: {w.document['reason']} {dict(w.detail)}")


# ---- a replacement for each reason -----------------------------------------------------------------------------------


async def _conflict(s: Scene) -> Command:
    """Another payload takes the key first."""
    await give(s.parts, [s.pay(amount=0)])
    return s.t


async def _mismatch(s: Scene) -> Command:
    return s.later("capture", await s.first("paid", s.pay()), 1)


async def _closed_hold(s: Scene) -> Command:
    held = await s.first("held", s.pay("hold", 5))
    await s.first("voided", s.later("void", held))
    return s.later("capture", held, 1)


async def _too_much_captured(s: Scene) -> Command:
    return s.later("capture", await s.first("held", s.pay("hold", 5)), 6)


async def _too_much_refunded(s: Scene) -> Command:
    return s.later("refund", await s.first("paid", s.pay(amount=5)), 6)


async def _lapsed(s: Scene) -> Command:
    """A hold that lapses soon, and as much time of the log as that takes. Time passes with what is booked."""
    now = await _booked_at(s, 0)
    for i, after_ms in enumerate(_LAPSES_AFTER_MS):
        held = s.pay("hold", 5, expires_at=now + after_ms)
        key = s.key(f"lapses-{i}")
        (written,) = await give(s.parts, [msgspec.structs.replace(held, idempotency_key=key)])
        if written.document["status"] == REJECTED:  # it was slower than that
            now = await _booked_at(s, i + 1)
            continue
        until, probe = now + after_ms, 100
        while await _booked_at(s, probe) < until:
            probe += 1
            await asyncio.sleep(0.005)
        return s.later("capture", key, 1)
    raise Problem("unavailable", "the log is too slow for a hold that lapses at once")


async def _booked_at(s: Scene, number: int) -> int:
    """When a command that moves nothing was booked, milliseconds UTC."""
    (written,) = await give(s.parts, [msgspec.structs.replace(s.pay(amount=0), idempotency_key=s.key(f"at-{number}"))])
    return _milliseconds(written.document["booked_at"])


def _milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def _product(s: Scene, to: list[dict[str, Any]], **more: Any) -> Command:
    """The bank publishes a product that cannot be; its name is nobody's."""
    document = {
        "product": "magic-product", "version": 1, "title": "Magic",
        "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "tree"}},
        "operations": {"pay": {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": to}]}},
        **more,
    }  # fmt: skip
    text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()
    return s.banks(PublishProduct, "magic-product", 1, 0, text, WHO, "magic")


def _seal_of_an_open_day(s: Scene) -> Command:
    cut, text = (SealedPlace(0, 1, "0" * 64),), '[{"partition":0,"sequence":1,"chain":"' + "0" * 64 + '"}]'
    figures = f'{{"day":"2299-12-31","cut":{text},"totals":[]}}'
    return s.banks(SealDay, _LAST_DAY, sha256(figures.encode()).hexdigest(), cut, (), WHO, "magic")


def _old_version(s: Scene) -> Command:
    text = orjson.dumps({"product": "wallet", "version": 1}).decode()
    return s.banks(PublishProduct, "wallet", 1, 0, text, WHO, "magic")


def _entry(s: Scene, *credits: int) -> Command:
    legs = (Posting(s.account("a"), "debit", 2), *(Posting(s.account("b"), "credit", c) for c in credits))
    return s.pay("entry", 0, accounts={}, postings=legs)


def _sweep(s: Scene, account: str) -> Command:
    accounts = {"accounts.1": s.account(account), "header": s.account("c")}
    return s.pay("sweep", 0, product="treasury", accounts=accounts)


def _split(s: Scene) -> Command:
    accounts = {"pool": s.account("a"), "payees.1": s.account("b"), "rest": s.account("c")}
    return s.pay("split", 10, product="escrow", accounts=accounts, amounts=(NamedAmount("payees.1", 20),))


def _below(s: Scene, name: str) -> str:
    return f"{s.by}/magic-{name}"


_R = Reason
_MADE: dict[Reason, Callable[[Scene], Any]] = {
    _R.IDEMPOTENCY_CONFLICT: _conflict,
    _R.PARTNER_UNKNOWN: lambda s: s.open(f"{_below(s, 'nobody')}:w"),
    _R.PRODUCT_UNKNOWN: lambda s: s.pay(product="magic-nothing"),
    _R.OPERATION_UNKNOWN: lambda s: s.pay("teleport"),
    _R.PARTNER_SUSPENDED: lambda s: s.open(f"{_below(s, 'suspended')}:new"),
    _R.PARTNER_STATE: lambda s: s.open(f"{_below(s, 'applied')}:new"),
    _R.PARTNER_FROZEN: lambda s: s.open(f"{_below(s, 'frozen')}:new"),
    _R.FIELD_INVALID: lambda s: s.pay(original="magic"),
    _R.ROLE_UNKNOWN: lambda s: s.pay(
        accounts={"payer": s.account("a"), "payee": s.account("b"), "stranger": s.account("b")}
    ),
    _R.ROLE_MISSING: lambda s: s.pay(accounts={"payer": s.account("a")}),
    _R.CURRENCY_UNKNOWN: lambda s: s.pay(currency="XXX"),
    _R.PRODUCT_CURRENCY: lambda s: s.pay(
        "release", product="escrow", currency="CHF", accounts={"pool": s.account("a"), "payee": s.account("b")}
    ),
    _R.EXPONENT_MISMATCH: lambda s: s.pay(exponent=3),
    _R.AMOUNT_NOT_POSITIVE: lambda s: s.pay(amount=0),
    _R.AMOUNT_TOO_LARGE: lambda s: _sweep(s, "huge"),
    _R.RATE_INVALID: lambda s: s.pay("exchange", product="payment", rate="0"),
    _R.POSTINGS_COUNT: _entry,
    _R.POSTINGS_UNBALANCED: lambda s: _entry(s, 1),
    _R.NOT_PERMITTED: lambda s: s.pay("top_up", accounts={"recipient": s.account("b")}),
    _R.ORIGINAL_UNKNOWN: lambda s: s.later("refund", s.key("never"), 1),
    _R.ORIGINAL_MISMATCH: _mismatch,
    _R.HOLD_EXPIRED: _lapsed,
    _R.HOLD_CLOSED: _closed_hold,
    _R.CAPTURE_EXCEEDS_HOLD: _too_much_captured,
    _R.REFUND_EXCEEDS_PAYMENT: _too_much_refunded,
    _R.ACCOUNT_UNKNOWN: lambda s: s.to(s.key("nowhere")),
    _R.ACCOUNT_NOT_OWNED: lambda s: s.pay(accounts={"payer": "somebody-else:w", "payee": s.account("b")}),
    _R.OWNER_STATE: lambda s: s.pay(accounts={"payer": s.account("a"), "payee": f"{_below(s, 'suspended')}:w"}),
    _R.OWNER_FROZEN: lambda s: s.pay(accounts={"payer": s.account("a"), "payee": f"{_below(s, 'frozen')}:w"}),
    _R.ACCOUNT_CLOSED: lambda s: s.to("closed"),
    _R.ACCOUNT_FROZEN: lambda s: s.to("frozen"),
    _R.ACCOUNT_CURRENCY: lambda s: s.to("usd"),
    _R.DEBITS_BLOCKED: lambda s: s.to(payer="no-debits"),
    _R.CREDITS_BLOCKED: lambda s: s.to("no-credits"),
    _R.SAME_ACCOUNT: lambda s: s.to("a"),
    _R.SPLIT_EXCEEDS_AMOUNT: _split,
    _R.NOTHING_TO_MOVE: lambda s: _sweep(s, "no-credits"),
    _R.INSUFFICIENT_FUNDS: lambda s: s.to(payer="no-credits"),
    _R.LIMIT_EXCEEDED: lambda s: s.to(payer="limited"),
    _R.ACCOUNT_EXISTS: lambda s: s.open(s.account("a")),
    _R.ACCOUNT_NOT_EMPTY: lambda s: CloseAccount(s.by, s.t.idempotency_key, s.account("no-debits")),
    _R.PARTNER_EXISTS: lambda s: s.banks(AdmitPartner, s.by, "", WHO, "magic"),
    _R.PARENT_UNKNOWN: lambda s: s.banks(AdmitPartner, f"{_below(s, 'nobody')}/x", "", WHO, "magic"),
    _R.STATE_UNKNOWN: lambda s: s.banks(SetPartnerState, s.by, "asleep", WHO, "magic"),
    _R.STATE_TRANSITION: lambda s: s.banks(SetPartnerState, s.by, "applied", WHO, "magic"),
    _R.PARTNER_NOT_EMPTY: lambda s: s.banks(SetPartnerState, _below(s, "leaving"), "exited", WHO, "magic"),
    _R.PRODUCT_VERSION: _old_version,
    _R.PRODUCT_INVALID: lambda s: _product(s, [{"role": "payee"}], colour="red"),
    _R.TEMPLATE_UNBALANCED: lambda s: _product(s, [{"role": "payee"}, {"role": "payee", "amount": "remaining"}]),
    _R.DAY_CLOSED: lambda s: s.banks(CloseDay, 0, WHO, "magic"),
    _R.DAY_AHEAD: lambda s: s.banks(CloseDay, _LAST_DAY, WHO, "magic"),
    _R.DAY_OPEN: _seal_of_an_open_day,
}  # fmt: skip
