"""docs/sandbox.md says what the code does: the table of reasons, the checks, the accounts."""

from __future__ import annotations

import re
from pathlib import Path

from clearline.gateway.forced import _MADE, AMOUNT, REASONS, SIMULATED
from clearline.gateway.onboarding import CHECKS
from clearline.gateway.sandbox import WALLETS
from ledger.money import format_minor

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sandbox.md").read_text()


def test_the_table_has_every_reason_with_its_amount() -> None:
    rows = re.findall(r"^\| (\d+) \| `([a-z_]+)` \| (\d+) \| (.+) \|$", PAGE, re.M)
    assert [(int(n), code, int(amount)) for n, code, amount, _ in rows] == [
        (n, reason.value, AMOUNT + n) for n, reason in enumerate(REASONS, 1)
    ]
    assert {code for _, code, _, how in rows if how.startswith("simulated")} == {r.value for r in SIMULATED}


def test_every_reason_has_a_replacement_or_is_simulated() -> None:
    assert set(_MADE) | set(SIMULATED) == set(REASONS)
    assert not set(_MADE) & set(SIMULATED)


def test_the_checks_are_those_of_the_code() -> None:
    section = PAGE.partition("## Inspection")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", section, re.M) == list(CHECKS)


def test_the_accounts_are_those_that_are_opened() -> None:
    for w in WALLETS:
        assert f"`PARTNER:{w.name}`" in PAGE
        if w.funds:
            whole, _, cents = format_minor(w.funds, w.currency).partition(".")
            assert f"`PARTNER:{w.name}` with {int(whole):,}.{cents} {w.currency}" in PAGE
