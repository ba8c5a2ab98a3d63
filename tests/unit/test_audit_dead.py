"""The auditor and dead letters that would be commands today: they died of what has changed since, or of nothing."""

from __future__ import annotations

import pytest

from clearline.audit.views import DEAD, SUBMITTED
from schemas.codec import schema_text
from schemas.records import SetFreeze, Transaction
from tests.faults.hostile import setting_up
from tests.faults.memory_world import MemoryWorld

LATER = 9_017
ROLES = {"payer": "bank:clearing:CNY", "payee": "acme:a:CNY"}


@pytest.fixture
def world() -> MemoryWorld:
    """A world in which commands of a schema died that the registry learnt afterwards."""
    w = MemoryWorld(1)
    commands = list(setting_up())
    for c in commands:
        w.publish(c)
    body = w.codec.encode(commands[-1])[5:]
    for _ in range(3):
        w.publish_bytes(0, b"acme", b"\0" + LATER.to_bytes(4, "big") + body)
    w.settle()
    assert len(w.log.topic(DEAD, 0)) == 3
    return w


def learn(world: MemoryWorld) -> None:
    value = world.log.topic(SUBMITTED, 0)[-4].value
    world.codec.add_writer_schema(LATER, schema_text(world.codec.name_of(value or b"")))


def test_letters_of_a_schema_that_is_known_now_are_in_the_notes(world: MemoryWorld):
    assert world.verify().ok
    learn(world)
    verdict = world.verify()
    assert verdict.ok, verdict
    assert any("would be commands today: 3 unknown_schema" in note for note in verdict.notes)


def test_a_command_that_was_known_before_did_not_die_of_its_schema(world: MemoryWorld):
    """The same bytes settle, and die later: whoever buried them knew the schema."""
    learn(world)
    letters = world.log.topic(DEAD, 0)
    raw = letters[0]
    value = (raw.value or b"")[:-1]  # what is cut is a dead letter for another reason
    world.publish_bytes(0, b"acme", raw.value)
    world.settle()
    world.publish_bytes(0, b"acme", value)
    world.settle()
    last = world.log.topic(DEAD, 0)[-1]
    headers = [(k, b"unknown_schema" if k == "reason" else v) for k, v in last.headers or []]
    world.log.topic(DEAD, 0)[-1] = last._replace(headers=headers)
    assert [c.name for c in world.verify().checks if c.differences] == ["dead_letters"]


@pytest.mark.parametrize("reason", ["unknown_schema", "too_large"])
def test_a_valid_command_that_was_buried_is_found(reason: str):
    w = MemoryWorld(1)
    for c in setting_up():
        w.publish(c)
    w.publish_bytes(0, b"acme", b"{}")
    w.settle()
    last = w.log.topic(DEAD, 0)[-1]
    valid = w.log.topic(SUBMITTED, 0)[-2].value
    headers = [(k, reason.encode() if k == "reason" else v) for k, v in last.headers or []]
    w.log.topic(DEAD, 0)[-1] = last._replace(headers=headers, value=valid)
    submitted = w.log.topic(SUBMITTED, 0)
    submitted[-1] = submitted[-1]._replace(value=valid)
    assert not w.verify().ok


def test_a_freeze_that_was_buried_is_one_difference_and_not_all_that_followed():
    """As in an upgrade, when somebody freezes before the last worker is a new one."""
    w = MemoryWorld(1)
    for c in setting_up():
        w.publish(c)
    freeze = SetFreeze("bank", "f", "world", "world", True, "li", "a trial")
    value = w.codec.encode(freeze)
    w.publish_bytes(0, b"bank", b"{}")
    w.settle()
    w.publish(Transaction("acme", "after", "wallet", "transfer", 1, "CNY", ROLES, (), 20_779))
    w.settle()
    last, submitted = w.log.topic(DEAD, 0)[-1], w.log.topic(SUBMITTED, 0)
    headers = [(k, b"unknown_schema" if k == "reason" else v) for k, v in last.headers or []]
    w.log.topic(DEAD, 0)[-1] = last._replace(headers=headers, value=value)
    at = next(i for i, r in enumerate(submitted) if r.value == b"{}")
    submitted[at] = submitted[at]._replace(value=value)
    found = {c.name: c.differences for c in w.verify().checks if c.differences}
    assert list(found) == ["dead_letters"] and len(found["dead_letters"]) == 1
