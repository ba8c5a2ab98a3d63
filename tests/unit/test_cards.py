"""Card numbers are refused in every free text, however they are written; order numbers and times are not."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearline.cards import holds_card, is_card
from clearline.contract import ContractError, read_command
from clearline.generator import generate
from schemas.examples import examples
from schemas.records import COMMANDS, CommandRecord

# Published for tests by the schemes and by payment services.
KNOWN = [
    "4111111111111111", "4012888888881881", "4222222222222", "5555555555554444", "5105105105105100", "2223003122003222",
    "378282246310005", "371449635398431", "6011111111111117", "6011000990139424", "3530111333300000", "3566002020360505",
    "30569309025904", "38520000023237", "36227206271667", "6200000000000005", "6205500000000000004", "6759649826438453",
    "2200000000000004", "9792030394440796",
]  # fmt: skip


def check_digit(digits: str) -> str:
    """The digit that makes them pass."""
    return next(d for d in "0123456789" if _passes(digits + d))


def _passes(digits: str) -> bool:
    total = 0
    for i, d in enumerate(reversed(digits)):
        n = int(d) * (1 + i % 2)
        total += n - 9 * (n > 9)
    return total % 10 == 0


@pytest.mark.parametrize("number", KNOWN)
@pytest.mark.parametrize("form", ["{}", "card {} thanks", "order 12 {}", "{} 7", "a{}b", "pan={};exp=12/29", "（{}）"])
def test_cards_of_every_scheme_are_found(number: str, form: str) -> None:
    assert is_card(number)
    for separator in ("", " ", "-", ".", "\u00a0"):
        written = separator.join(number[i : i + 4] for i in range(0, len(number), 4))
        assert holds_card(form.format(written)), written
    assert holds_card(form.format(" ".join(number)))
    assert holds_card(form.format("".join(chr(0xFF10 + int(d)) for d in number)))


@pytest.mark.parametrize("number", KNOWN)
def test_another_last_digit_or_length_is_no_card(number: str) -> None:
    for d in "0123456789":
        assert holds_card(number[:-1] + d) is (d == number[-1])
    assert not holds_card(f"9{number}9999999")  # within a longer number


@pytest.mark.parametrize(
    "text",
    ["", "order 1001", "1795338000000", "2026112209000012345", "ORD-20261122-000123", "+86 138 0013 8000", "9223372036854775807",
     "2026-11-22 09:00:00.000", "0000000000000000", "4111 1111 1111", "7d1f1c2e3a4b5968778695a4b3c2d1e0", "1" * 16, "GB82 WEST 1234 5698 7654 32"],
)  # fmt: skip
def test_what_is_no_card_is_taken(text: str) -> None:
    assert not holds_card(text)


@given(st.text(max_size=300))
def test_any_text_can_be_looked_at(text: str) -> None:
    assert holds_card(text) in (True, False)


def transaction(**more: Any) -> dict[str, Any]:
    return {
        "partner_id": "acme", "idempotency_key": "o-1", "product": "wallet", "operation": "transfer", "amount": 1,
        "currency": "CNY", "accounts": {"payer": "acme:a", "payee": "acme:b"}, **more,
    }  # fmt: skip


FIELDS: dict[str, Any] = {
    "reference": lambda t: transaction(reference=t),
    "metadata": lambda t: transaction(metadata={"memo": t}),
    "metadata key": lambda t: transaction(metadata={t[:64]: "x"}),
    "note": lambda t: {"command": "BlockAccount", "partner_id": "bank", "idempotency_key": "k", "account_id": "acme:a",
                       "block_debits": True, "block_credits": False, "note": t},
    "partner's name": lambda t: {"command": "AdmitPartner", "partner_id": "bank", "idempotency_key": "k", "subject_id": "acme", "name": t},
}  # fmt: skip


@pytest.mark.parametrize("where", FIELDS)
def test_a_thousand_cards_in_any_free_text_and_none_is_taken(where: str) -> None:
    seeded = random.Random(7)
    assert read_command(FIELDS[where]("order 1001"), date(2026, 11, 22))
    for i in range(1_000):
        start = KNOWN[i % len(KNOWN)]
        digits = start[:6] + "".join(seeded.choice("0123456789") for _ in range(len(start) - 7))
        number = digits + check_digit(digits)
        with pytest.raises(ContractError) as refused:
            read_command(FIELDS[where](f"paid with {number}"), date(2026, 11, 22))
        assert "must not hold a card number" in str(refused.value)
        assert number not in str(refused.value), "nor is it shown"


def test_nothing_that_we_wrote_ourselves_is_refused() -> None:
    written: list[Any] = [command for kind in COMMANDS for command in examples(kind.__name__)]
    written += [item.command for seed in (1, 2) for item in generate(seed, 3_000)]
    texts = [text for command in written for text in _texts(command)]
    assert len(texts) > 3_000
    assert [t for t in texts if holds_card(t)] == []


def _texts(command: CommandRecord) -> list[str]:
    named = [getattr(command, name, "") for name in ("reference", "note", "name", "requested_by", "approved_by")]
    metadata: dict[str, str] = getattr(command, "metadata", {})
    return [text for text in (*named, *metadata, *metadata.values()) if text]
