"""The table of calls: whatever the order in which acknowledgements and replies come, each call gets its own outcome."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from schemas.identity import command_id
from schemas.records import Command, OpenAccount, Reply, Transaction
from streams.calls import Call, Called, Calls, Place, Waiting, place_of


def transaction(key: str = "o-1") -> Transaction:
    return Transaction("acme", key, "wallet", "transfer", 5, "CNY", {"payer": "acme:a", "payee": "acme:b"}, (), 20_000)


def reply(outcome: str = "settled", at: Place = Place(2, 7), key: str = "o-1", **more: Any) -> Reply:  # noqa: B008
    partner = more.pop("partner_id", "acme")
    fields = {"reason": "", "detail": {}, "first_offset": -1, **more}
    return Reply(
        command_id(partner, key), partner, key, outcome, fields["reason"], fields["detail"], at.partition, 1, at.offset,
        fields["first_offset"], 1_795_338_000_000,
    )  # fmt: skip


class Told:
    """What a waiter and the keeper were told, in order."""

    def __init__(self, open_max: int = 100) -> None:
        self.events: list[str] = []
        self.kept: list[tuple[Command, Called]] = []
        self.calls = Calls(lambda command, called: self.kept.append((command, called)), open_max)

    def begin(self, command: Command, wanted: int = 1) -> Call:
        waiting = Waiting(1, lambda: self.events.append("acknowledged"), lambda: self.events.append("answered"))
        return self.calls.begin(command, wanted, waiting)


@pytest.mark.parametrize("early", [False, True])
def test_a_reply_finds_its_call_before_and_after_the_acknowledgement(early: bool):
    told = Told()
    call = told.begin(transaction())
    steps = [lambda: told.calls.acknowledged(call, Place(2, 7)), lambda: told.calls.replied(reply())]
    for step in reversed(steps) if early else steps:
        step()
    assert told.events == ["acknowledged", "answered"]
    assert call.called == Called((Place(2, 7),), reply())
    assert told.kept == [(transaction(), call.called)]
    assert len(told.calls) == 0


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        (reply("settled"), Place(2, 7)),
        (reply("repeated", first_offset=3), Place(2, 7)),
        (reply("rejected", reason="insufficient_funds"), Place(2, 7)),
        (reply("rejected", reason="idempotency_conflict", first_offset=3), Place(2, 7)),
        (reply("settled", first_offset=3), Place(2, 3)),
        (reply("rejected", reason="credits_blocked", first_offset=3), Place(2, 3)),
        (reply("applied"), Place(2, 7)),
        (reply("settled", first_offset=0), Place(2, 0)),
    ],
)
def test_the_place_of_the_command_that_a_reply_is_to(sent: Reply, place: Place):
    assert place_of(sent) == place


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_two_calls_of_one_command_get_each_its_own(order: tuple[int, ...]):
    """The same key twice at once, and a third time through another gateway on the same partition of replies."""
    told = Told()
    first, second = told.begin(transaction()), told.begin(transaction())
    repeat = reply("repeated", Place(2, 8), first_offset=7)
    steps = [
        lambda: told.calls.acknowledged(first, Place(2, 7)),
        lambda: told.calls.acknowledged(second, Place(2, 8)),
        lambda: told.calls.replied(reply()),
        lambda: told.calls.replied(repeat),
    ]
    told.calls.replied(reply("repeated", Place(2, 9), first_offset=7))
    for step in order:
        steps[step]()
    assert first.called.reply == reply()
    assert second.called.reply == repeat
    assert len(told.calls) == 0
    assert not told.calls._early, "nothing of the others stays"


@pytest.mark.parametrize("order", list(permutations(range(6))))
def test_a_command_for_every_partition_is_answered_when_all_have_it(order: tuple[int, ...]):
    told = Told()
    command = OpenAccount("bank", "k", "bank:fees:CNY", "income", "CNY")
    call = told.begin(command, 3)
    replies = [
        reply("applied", Place(0, 5), "k", partner_id="bank"),
        reply("rejected", Place(1, 4), "k", partner_id="bank", reason="account_exists"),
        reply("rejected", Place(2, 3), "k", partner_id="bank", reason="account_mismatch"),
    ]
    steps = [lambda p=p: told.calls.acknowledged(call, p) for p in (Place(0, 5), Place(1, 4), Place(2, 3))]
    steps += [lambda r=r: told.calls.replied(r) for r in replies]
    for n, step in enumerate(order):
        assert ("answered" in told.events) is False or n == 6
        steps[step]()
    assert told.events == ["acknowledged", "answered"]
    assert call.called == Called((Place(0, 5), Place(1, 4), Place(2, 3)), replies[1])


def test_a_failure_ends_a_call_once_and_its_late_reports_do_no_harm():
    told = Told()
    call = told.begin(OpenAccount("bank", "k", "bank:fees:CNY", "income", "CNY"), 2)
    error = RuntimeError("away")
    told.calls.acknowledged(call, Place(0, 5))
    told.calls.failed(call, error)
    told.calls.failed(call, RuntimeError("again"))
    told.calls.acknowledged(call, Place(1, 5))
    told.calls.replied(reply("applied", Place(0, 5), "k", partner_id="bank"))
    assert told.events == ["acknowledged", "answered"]
    assert call.error is error
    assert (len(told.calls), told.kept) == (0, [])


def test_replies_to_others_are_dropped_and_the_oldest_call_is_given_up():
    told = Told(open_max=3)
    told.calls.replied(reply(key="of somebody else"))
    assert not told.calls._early
    calls = [told.begin(transaction(f"o-{i}")) for i in range(4)]
    assert not told.calls.knows(calls[0].command_id)
    for i, call in enumerate(calls):
        told.calls.acknowledged(call, Place(2, i))
        told.calls.replied(reply("settled", Place(2, i), f"o-{i}"))
    assert [c.called.reply is None for c in calls] == [True, False, False, False]
    assert told.events.count("acknowledged") == 4, "it is in the log all the same"


def test_a_keeper_that_fails_keeps_nobody_from_an_outcome():
    def fails(_command: Command, _called: Called) -> None:
        raise ValueError("no room")

    events: list[str] = []
    calls = Calls(fails)
    call = calls.begin(transaction(), 1, Waiting(1, lambda: None, lambda: events.append("answered")))
    calls.acknowledged(call, Place(2, 7))
    calls.replied(reply())
    assert events == ["answered"]
