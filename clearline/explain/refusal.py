"""Why a command was rejected, and what would make it pass, from the reason, what it names and what was asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from clearline.explain import reasons_en, reasons_zh
from clearline.explain.codes_zh import CODES
from clearline.explain.said import Lang, Said, money, names_of, say_all
from clearline.gateway.documents import not_told
from ledger.reasons import CURE, MEANING, Reason
from schemas.identity import root_of
from schemas.records import Command, JournalRecord, Transaction

REASONS: Mapping[Lang, Mapping[Reason, Said]] = {"en": reasons_en.REASONS, "zh": reasons_zh.REASONS}

# What a name of a template is worked out from; every other is a key of the detail, or of the record.
_MADE = {
    "left": ("available", "short", "allowed"), "difference": ("debits", "credits"), "next": ("highest",),
    "remaining": ("allowed", "used"), "window": ("limit",), "each": ("subject", "limit"),
    "elsewhere": ("subject", "limit"), "others": ("account",), "above": ("subject",),
}  # fmt: skip


class Refusal(NamedTuple):
    """Why it was rejected, and what would make it pass."""

    why: str
    cure: str


def refusal(
    r: JournalRecord, command: Command | None, lang: Lang, sees: Callable[[str], bool] = lambda _account: True
) -> Refusal:
    """What is said of a rejected record. Whatever it names and no sentence takes is said at the end as it is.

    `sees`: whether an account is the reader's; what is available on any other is not told, nor what limits it has.
    """
    reason = Reason(r.reason)
    said = REASONS[lang][reason]
    currency = _currency(r, command)
    values = _values(reason, r, currency, lang)
    # A partner is the reader's when its accounts are.
    hidden = not_told(r.detail, lambda owner: sees(f"{owner}:"), sees(f"{root_of(r.partner_id)}:"))
    if hidden:
        whose = ("others", "account") if r.detail.get("account") else ("above", "subject")
        left_out = hidden | ({"subject", "each", "elsewhere"} if whose[1] == "subject" else set())
        values = {k: v for k, v in values.items() if k not in left_out} | {whose[0]: r.detail[whose[1]]}
    plain = {"en": (MEANING[reason], CURE[reason]), "zh": CODES[reason]}[lang]  # where nothing is named
    why = say_all(said.why, values, currency, lang) or plain[0]
    cure = say_all(said.cure, values, currency, lang) or plain[1]
    told = _told((*said.why, *said.cure), values.keys()) | hidden
    left = [f"{k} {v}" for k, v in sorted(r.detail.items()) if v and k not in told]
    if left:
        why += {"en": f" It also names: {', '.join(left)}.", "zh": f"其他信息：{'、'.join(left)}。"}[lang]
    return Refusal(why, cure)


def explained(reason: Reason, lang: Lang) -> set[str]:
    """The keys of a detail that the sentences of a reason tell."""
    said = REASONS[lang][reason]
    clauses = (*said.why, *said.cure)
    return _told(clauses, set().union(*map(names_of, clauses)))


def _told(clauses: Iterable[str], given: Collection[str]) -> set[str]:
    """The keys of a detail that the clauses tell of which all that they name is given."""
    names = set().union(*(names_of(c) for c in clauses if names_of(c) <= set(given)))
    return names.union(*(_MADE.get(name, ()) for name in names))


def _values(reason: Reason, r: JournalRecord, currency: str, lang: Lang) -> dict[str, object]:
    """What the sentences may name: the detail, where the record is, and what follows from them."""
    detail = {k: v for k, v in r.detail.items() if v}
    out: dict[str, object] = {"partition": r.source_partition, **detail}
    if r.first_offset >= 0:
        out["first_offset"] = r.first_offset
    # A step between partitions hands on what it was given, so nothing is sure to be there.
    with suppress(KeyError, ValueError):
        match reason:
            case Reason.INSUFFICIENT_FUNDS:
                out["left"] = int(detail["allowed"]) - int(detail["short"])
            case Reason.POSTINGS_UNBALANCED:
                out["difference"] = abs(int(detail["debits"]) - int(detail["credits"]))
            case Reason.PRODUCT_VERSION:
                out["next"] = int(detail["highest"]) + 1
            case Reason.LIMIT_EXCEEDED:
                out |= _of_limit(detail, currency, lang)
    return out


def _of_limit(detail: Mapping[str, str], currency: str, lang: Lang) -> dict[str, object]:
    """What a limit takes, has taken and was asked for: money, or how many."""
    what, _, window = detail["limit"].partition(" per ")
    numbers = {name: int(detail[name]) for name in ("allowed", "used", "asked")}
    if window:
        numbers["remaining"] = max(0, numbers["allowed"] - numbers["used"])
    shown = {n: f"{v:,}" if what == "count" else money(v, currency, lang) for n, v in numbers.items()}
    subject = detail.get("subject", "")
    kind = {"": "elsewhere", "transaction": "each"}.get(window, "window")
    return {**shown, kind: window if kind == "window" else subject}


def _currency(r: JournalRecord, command: Command | None) -> str:
    """The currency of the amounts that a rejection names: its own word, else that of the account's posting, else what
    was asked in. Empty when nobody says it."""
    named = r.detail.get("currency", "")
    if named or not isinstance(command, Transaction):
        return named
    account = r.detail.get("account", "")
    for p in command.postings:
        if p.account_id == account and p.currency:
            return p.currency
    # Of an exchange only the payer and what is sold are in the transaction's currency.
    if command.rate and account not in ("", command.accounts.get("payer"), command.accounts.get("sold")):
        return ""
    return command.currency
