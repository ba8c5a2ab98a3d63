"""How a sentence is said: templates whose fields are what a rejection names, with amounts in their currency.

A clause is said only when all that it names is there; a rejection names more or less, by where it was met. In a
template `{account}` is put in as it is, `{short!m}` is minor units shown as money, `{count!n}` a number.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ledger.money import EXPONENTS, format_minor

Lang = Literal["en", "zh"]
LANGUAGES: tuple[Lang, ...] = ("en", "zh")

_WHOLE = re.compile(r"-?\d+", re.ASCII)
_UNITS: dict[Lang, str] = {"en": " minor units", "zh": " 个最小货币单位"}


class Said(NamedTuple):
    """What is said of one reason: why it came to it, and what would make it pass, each in clauses."""

    why: tuple[str, ...]
    cure: tuple[str, ...]


class _Sayer(string.Formatter):
    """Puts values into a template: `m` as money, `n` as a number."""

    def __init__(self, currency: str, lang: Lang) -> None:
        self._currency = currency
        self._lang = lang

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion in ("m", "n"):
            text = str(value)
            if not _WHOLE.fullmatch(text):
                return text  # the ledger says it in words
            return money(int(text), self._currency, self._lang) if conversion == "m" else f"{int(text):,}"
        return super().convert_field(value, conversion)


def say(template: str, values: Mapping[str, object], currency: str = "", lang: Lang = "en") -> str:
    """A template with its values. `currency`: of amounts; empty: they are said in minor units. Raises KeyError."""
    return _Sayer(currency, lang).vformat(template, (), values)


def say_all(clauses: Iterable[str], values: Mapping[str, object], currency: str = "", lang: Lang = "en") -> str:
    """The clauses of which all that they name is there, one after the other."""
    said = [say(c, values, currency, lang) for c in clauses if names_of(c) <= values.keys()]
    return ("" if lang == "zh" else " ").join(said)


def names_of(template: str) -> set[str]:
    """The fields that a template names."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def money(amount: int, currency: str, lang: Lang = "en") -> str:
    """Minor units as people read them: 1255000 CNY is `12,550.00 CNY`."""
    if currency not in EXPONENTS:
        return f"{amount:,}{_UNITS[lang]}"
    whole, dot, rest = format_minor(abs(amount), currency).partition(".")
    return f"{'-' if amount < 0 else ''}{int(whole):,}{dot}{rest} {currency}"
