"""A product's document in words: what an operation takes, from whom, to whom, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.money import EXPONENTS, format_minor

_KINDS = {
    "entry": "free postings that balance", "hold": "money of payer is set aside for payee",
    "capture": "a part or all of a hold is taken", "void": "what is left of a hold is released",
    "reversal": "an entry is undone as a whole", "exchange": "payer gives one currency, payee gets another",
    "refund": "a payment is given back, in parts or as a whole",
}  # fmt: skip


def operation_text(o: Mapping[str, Any]) -> str:
    """What an operation does, a sentence for each step."""
    if o["kind"] != "transfer":
        fees = {"return": "; fees are returned too", "keep": "; fees are kept"} if o["kind"] == "refund" else {}
        return _KINDS[o["kind"]] + fees.get(o.get("fees", "keep"), "")
    return "; then ".join(_step(s) for s in o["steps"])


def _step(s: Mapping[str, Any]) -> str:
    took = {"balance": "all that is on", "to_zero": "whatever brings to zero"}
    amount = s["amount"]
    what = took.get(amount) if isinstance(amount, str) else None
    start = f"{what} {s['from']}" if what else f"{amount_text(amount, 'amount')} from {s['from']}"
    targets = [_target(t) for t in s["to"]] if len(s["to"]) > 1 or "amount" in s["to"][0] else [s["to"][0]["role"]]
    return f"{start} to {', '.join(targets)}"


def _target(t: Mapping[str, Any]) -> str:
    a = t.get("amount", "remaining")
    words = {"equal": "the rest in equal parts", "named": "given amounts", "balance": "what is owed there first"}
    if a == "remaining":
        return f"{t['role']} (the rest)"
    return f"{t['role']} ({words[a] if isinstance(a, str) and a in words else amount_text(a, 'the step')})"


def amount_text(a: Any, of: str) -> str:
    """An amount expression, such as `0.6 %, at least 0.01 CNY`."""
    if isinstance(a, str):
        return "the amount" if a == "amount" else a
    if "fixed" in a:
        return money_text(a["fixed"])
    of = {"amount": "the amount", "step": "the step"}.get(a.get("of", ""), a.get("of", of))
    if "tiers" in a:
        return f"by {of}: " + ", ".join(_tier(t) for t in a["tiers"])
    out = f"{a['percent']} %"
    if a.get("rounding", "half_up") != "half_up":
        out += f" rounded {a['rounding'].replace('_', ' ')}"
    out += f", at least {money_text(a['min'])}" if "min" in a else ""
    return out + (f", at most {money_text(a['max'])}" if "max" in a else "")


def _tier(t: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in t.items() if k != "up_to"}
    return f"{amount_text(rest, '')} " + (f"up to {money_text(t['up_to'])}" if "up_to" in t else "above")


def money_text(table: Mapping[str, int]) -> str:
    """Amounts by currency, such as `25.00 CNY / 3.50 USD`."""
    return " / ".join(f"{format_minor(v, c) if c in EXPONENTS else v} {c}" for c, v in table.items())


def role_text(r: Mapping[str, Any]) -> str:
    """Whose account takes the part."""
    whose = {"caller": "the caller's tree", "tree": "the root partner's tree", "any": "any partner", "bank": "the bank"}
    out = whose[r["owner"]]
    out += f": {r['account']}" if "account" in r else ""
    out += ", several accounts" if r.get("many") else ""
    if "open" in r:
        o = r["open"]
        least = o.get("min_available")
        out += f"; opened on first use as {o['type']}" + ("" if least is None else f", at least {least}")
    return out


def limit_text(limit: Mapping[str, Any]) -> str:
    """What one window may take."""
    out = []
    if limit.get("count_max") is not None:
        out.append(f"{limit['count_max']:,} transactions")
    if limit.get("amount_max") is not None:
        out.append(money_text({limit["currency"]: limit["amount_max"]}))
    return f"{' and '.join(out)} per {limit['window']}"
