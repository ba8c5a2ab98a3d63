"""Card numbers have no business in a ledger's free texts: found by issuer and check digit, so that none is stored.

One number in ten passes the check digit by chance, and order numbers are numbers: so the first digits must be those of
an issuer of cards as well, at a length that it uses. What is written with spaces, hyphens or dots is seen through.
"""

from __future__ import annotations

import re

DIGITS_MIN = 13
DIGITS_MAX = 19
_SEPARATORS = r"[ \-._\u00a0\u2009]"
_RUN = re.compile(rf"\d(?:{_SEPARATORS}?\d){{{DIGITS_MIN - 1},}}")
_GROUP = re.compile(r"\d+")
# First digits, from and to, and the lengths in use: ISO/IEC 7812 as the schemes publish it.
_ISSUERS: tuple[tuple[str, str, tuple[int, int]], ...] = (
    ("4", "4", (13, 19)),  # Visa
    ("51", "55", (16, 16)),  # Mastercard
    ("2221", "2720", (16, 16)),
    ("34", "34", (15, 15)),  # American Express
    ("37", "37", (15, 15)),
    ("62", "62", (16, 19)),  # UnionPay
    ("81", "81", (16, 19)),
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "659", (16, 19)),
    ("3528", "3589", (16, 19)),  # JCB
    ("300", "305", (14, 19)),  # Diners Club
    ("36", "36", (14, 19)),
    ("38", "39", (14, 19)),
    ("50", "50", (13, 19)),  # Maestro
    ("56", "69", (13, 19)),
    ("2200", "2204", (16, 19)),  # Mir
    ("9792", "9792", (16, 16)),  # Troy
)


def holds_card(text: str) -> bool:
    """Whether a card number stands in a text."""
    return any(_among(run.group()) for run in _RUN.finditer(text))


def _among(run: str) -> bool:
    """Whether neighbouring groups of digits make a card number: other numbers may stand before and after it."""
    groups = _GROUP.findall(run)
    for start in range(len(groups)):
        digits = ""
        for group in groups[start:]:
            digits += group
            if len(digits) > DIGITS_MAX:
                break
            if len(digits) >= DIGITS_MIN and is_card(digits):
                return True
    return False


def is_card(digits: str) -> bool:
    """Whether digits, of whatever script, are the number of a card."""
    numbers = [int(d) for d in digits]
    plain = "".join(map(str, numbers))
    known = any(
        first <= plain[: len(first)] <= last and shortest <= len(plain) <= longest
        for first, last, (shortest, longest) in _ISSUERS
    )
    return known and _luhn(numbers)


def _luhn(numbers: list[int]) -> bool:
    total = sum(numbers[-1::-2]) + sum(sum(divmod(2 * n, 10)) for n in numbers[-2::-2])
    return total % 10 == 0
