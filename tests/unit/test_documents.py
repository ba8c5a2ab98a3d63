"""What is written down is what is so: reasons, requirements, package data, the size of modules and functions.

`python -m tests.unit.test_documents` writes docs/REASONS.md anew.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from ledger.reasons import CURE, MEANING, Reason

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "ledger", "processors", "streams", "sinks", "clearline", "benchmarks")
MODULES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
LINES_MAX, FUNCTION_LINES_MAX = 500, 70


def reasons_page() -> str:
    """docs/REASONS.md, from the list that the ledger uses."""
    rows = [
        f"| {rank} | `{reason.value}` | {MEANING[reason]} | {CURE[reason]} |" for rank, reason in enumerate(Reason, 1)
    ]
    return "\n".join([
        "# Reasons",
        "",
        "Why a command was rejected. A rejection is an outcome, not an error: it is recorded in the journal with its code and",
        "a `detail` that names the field, account, limit or rule. Codes are part of the contract and are never renamed. When",
        "several apply to a transaction, over all of its postings, the first of this list is given.",
        "",
        "Written from `ledger/reasons.py` by `python -m tests.unit.test_documents`; a test holds both equal.",
        "",
        "| | code | cause | cure |",
        "|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def test_the_page_of_reasons_is_the_ledgers_list():
    page = (ROOT / "docs" / "REASONS.md").read_text(encoding="utf-8")
    assert page == reasons_page(), "run: python -m tests.unit.test_documents"


def test_reasons_are_stable_codes():
    """A code may be added here; none is ever taken away or renamed."""
    assert [r.value for r in Reason] == [
        "idempotency_conflict", "partner_unknown", "product_unknown", "operation_unknown", "partner_suspended",
        "partner_state", "world_frozen", "partner_frozen", "product_frozen", "field_invalid", "role_unknown", "role_missing", "currency_unknown", "product_currency",
        "exponent_mismatch", "amount_not_positive", "amount_too_large", "rate_invalid", "postings_count",
        "postings_unbalanced", "not_permitted", "original_unknown", "original_mismatch", "hold_expired",
        "hold_closed", "capture_exceeds_hold", "refund_exceeds_payment", "account_unknown", "account_not_owned",
        "owner_state", "owner_frozen", "account_closed", "account_frozen", "account_currency", "debits_blocked", "credits_blocked",
        "same_account", "split_exceeds_amount", "nothing_to_move", "insufficient_funds", "counter_overflow",
        "limit_exceeded", "account_exists", "account_not_empty", "partner_exists", "parent_unknown",
        "state_unknown", "state_transition", "partner_not_empty", "product_version", "product_invalid",
        "template_unbalanced", "day_closed", "day_ahead", "crossing_unknown",
        "day_open", "day_sealed",
    ]  # fmt: skip


def test_the_package_depends_on_what_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements" / "runtime.in").read_text().splitlines()
    wanted = [line.split("#")[0].strip() for line in lines]
    assert project["dependencies"] == [line for line in wanted if line and not line.startswith("-")]
    traces = (ROOT / "requirements" / "traces.in").read_text().splitlines()
    assert project["optional-dependencies"] == {"traces": [line for line in traces if not line.startswith("-")]}


@pytest.mark.parametrize("name", ["runtime", "dev", "traces"])
def test_every_requirement_is_pinned_with_its_hash_and_no_address(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for block in re.split(r"\n(?=\S)", text.strip()):
        if block.startswith("#"):
            continue
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+", block, re.IGNORECASE), block[:80]
        assert "--hash=sha256:" in block, block[:80]
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    assert "index-url" not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_say_why_they_exist_and_so_are_their_functions(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") < LINES_MAX
    assert ast.get_docstring(tree), "a module opens with why it exists"
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


if __name__ == "__main__":
    (ROOT / "docs" / "REASONS.md").write_text(reasons_page(), encoding="utf-8")
