"""What the commands share: settings of the running system, and examples in their help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.connection import Connection


def example(*lines: str) -> dict[str, Any]:
    """Keyword arguments of a command: its example, shown below its options."""
    return {"epilog": "Example: " + "  |  ".join(lines), "no_args_is_help": False}


def live_settings() -> Settings:
    """Settings with all addresses, those of the embedded stack included. Raises ClearlineError when nothing runs."""
    from clearline.config import load_settings
    from clearline.stack import resolved_settings

    return resolved_settings(load_settings())


def live() -> Connection:
    """A connection to the running system."""
    from clearline.connection import connect

    return connect(live_settings())


def money(amount: int, currency: str) -> str:
    """Minor units for people, with thousands: 1255000 CNY -> 12,550.00."""
    from ledger.money import EXPONENTS, format_minor

    if currency not in EXPONENTS:
        return f"{amount:,}"
    whole, dot, rest = format_minor(amount, currency).partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{dot}{rest}"


def turnover(by_currency: Mapping[str, int]) -> str:
    """Amounts in several currencies, such as `12,550.00 CNY, 300 JPY`."""
    return ", ".join(f"{money(amount, currency)} {currency}" for currency, amount in sorted(by_currency.items()))
