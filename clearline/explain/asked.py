"""What a command asked for, in words."""

from __future__ import annotations

from clearline.explain.history import History
from clearline.explain.said import Lang, say
from clearline.explain.sentences import SENTENCES
from clearline.gateway.documents import iso_time
from schemas.records import Command, JournalRecord, Transaction

ROLES_MAX = 12  # of one transaction that are named one by one


def what_was_asked(command: Command | None, lang: Lang) -> str:
    """What a transaction asked for, as a part of a sentence; empty for what is none."""
    if not isinstance(command, Transaction):
        return ""
    t, words = command, SENTENCES[lang]
    values: dict[str, object] = {"amount": t.amount, "original": t.original, **t.accounts}
    parts = [say(words[_form(t)], {**values, **_more(t, lang)}, t.currency, lang)]
    if t.amounts:
        named = ", ".join(f"{n.name} {say('{v!m}', {'v': n.amount}, t.currency, lang)}" for n in t.amounts[:ROLES_MAX])
        parts.append(say(words["of_parts"], {"parts": named}, "", lang))
    if t.rate:
        parts.append(say(words["with_rate"], {"rate": t.rate}, "", lang))
    if t.expires_at:
        parts.append(say(words["with_expiry"], {"expires_at": iso_time(t.expires_at)}, "", lang))
    if t.final:
        parts.append(words["with_final"])
    return ("，" if lang == "zh" else ", ").join(parts)


def _form(t: Transaction) -> str:
    """Which sentence fits what was given."""
    if t.original:
        return "of_original_amount" if t.amount else "of_original"
    if t.postings:
        return "of_postings" if len(_currencies(t)) == 1 else "of_postings_many"
    if not t.accounts:
        return "of_amount"
    if not t.amount:
        return "of_roles_only"
    return "of_accounts" if t.accounts.keys() == {"payer", "payee"} else "of_roles"


def _more(t: Transaction, lang: Lang) -> dict[str, object]:
    roles = sorted(t.accounts.items())
    shown = ("、" if lang == "zh" else ", ").join(f"{role} {account}" for role, account in roles[:ROLES_MAX])
    out: dict[str, object] = {"roles": shown + (" ..." if len(roles) > ROLES_MAX else "")}
    if t.postings:
        out |= {"count": len(t.postings), "amount": sum(p.amount for p in t.postings if p.side == "debit")}
    return out


def _currencies(t: Transaction) -> set[str]:
    return {p.currency or t.currency for p in t.postings}


def currency_of(h: History) -> str:
    """The currency that a transaction is in; empty when nothing says it."""
    if isinstance(h.command, Transaction):
        return h.command.currency
    aside = [p.currency for p in h.first.pending if p.hold_id == h.first.command_id]
    return next(iter([*(p.currency for p in h.first.postings), *aside]), "")


def name_of(command: Command | None, r: JournalRecord) -> str:
    """What a control command is about: an account, a partner, a product; empty for none."""
    if r.subject_id:
        return r.subject_id
    found = (getattr(command, name, "") for name in ("account_id", "subject_id", "product"))
    return next((str(x) for x in found if x), "") if command is not None else ""
