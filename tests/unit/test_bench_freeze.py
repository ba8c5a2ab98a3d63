"""What the freeze benchmark takes for a payment that settled behind a freeze."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.freeze import behind
from schemas.records import JournalRecord, PostedLeg


def record(sequence: int, command: str, outcome: str, **more: Any) -> JournalRecord:
    fields: dict[str, Any] = dict.fromkeys(JournalRecord.__struct_fields__, "")
    fields |= {"sequence": sequence, "command": command, "outcome": outcome, "source_partition": 0, "changes": {}}
    fields |= {"postings": (), "detail": {}, **more}
    return JournalRecord(**fields)


def freeze(sequence: int, level: str, subject: str, frozen: str) -> JournalRecord:
    return record(sequence, "SetFreeze", "applied", subject_id=subject, changes={"level": level, "frozen": frozen})


def pay(sequence: int, outcome: str = "settled") -> JournalRecord:
    fields: dict[str, Any] = dict.fromkeys(PostedLeg.__struct_fields__, 0)
    leg = PostedLeg(**{**fields, "account_id": "acme:wallet:alice"})
    return record(sequence, "Transaction", outcome, partner_id="acme", product="wallet", postings=(leg,))


@pytest.mark.parametrize(
    ("level", "subject"),
    [("account", "acme:wallet:alice"), ("partner", "acme"), ("product", "wallet"), ("world", "world")],
)
def test_what_settles_between_a_freeze_and_its_lifting_is_behind_it(level: str, subject: str):
    on, off = freeze(2, level, subject, "true"), freeze(5, level, subject, "false")
    assert behind([pay(1), on, pay(3, "rejected"), off, pay(6)]) == 0
    assert behind([pay(6), off, pay(4), on, pay(1)]) == 1
    other = freeze(2, level, f"{subject}-2", "true")
    assert behind([other, pay(3)]) == (1 if level == "world" else 0)
