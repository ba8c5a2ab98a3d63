"""One control command, given and awaited: what `clearline partner` and `clearline account` do."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from clearline.connection import Connection
from clearline.outcomes import Matcher, Outcome, OutcomeTail, wait_for_all
from ledger.reasons import MEANING, told_of
from schemas.errors import BadInputError, PartUnavailableError
from schemas.records import Command


class RejectedError(BadInputError):
    """The ledger said no. `outcome` has the reason."""

    def __init__(self, what: str, outcome: Outcome) -> None:
        meaning = told_of(outcome.reason, MEANING)
        super().__init__(f"{what} was rejected: {outcome.why()}. {meaning}".rstrip())
        self.outcome = outcome


def new_key() -> str:
    """An idempotency key for whoever gave none."""
    return f"cli-{uuid4().hex}"


def give(system: Connection, command: Command, stall_s: float = 30.0) -> list[Outcome]:
    """Publishes one command and waits for its outcomes: one, or one per partition for the bank's own accounts.

    Raises RejectedError, and PartUnavailableError when the broker takes nothing or no worker answers in `stall_s`.
    """
    outcomes = ask(system, command, stall_s)
    for outcome in outcomes:
        if outcome.outcome in ("rejected", "dead"):
            raise RejectedError(f"{type(command).__name__} {command.idempotency_key}", outcome)
    return outcomes


def ask(system: Connection, command: Command, stall_s: float = 30.0) -> list[Outcome]:
    """The same, whatever became of it, by partition. Raises PartUnavailableError."""
    what = f"{type(command).__name__} {command.idempotency_key}"
    outcomes: list[Outcome] = []
    matcher: Matcher[int] = Matcher(lambda _token, outcome: outcomes.append(outcome))

    def delivered(error: Any, message: Any) -> None:
        if error is None:
            matcher.sent(0, message.partition(), message.offset())

    publisher = system.publisher(delivery_timeout_s=15.0, idempotent=False)  # first, so that it connects meanwhile
    with OutcomeTail(system.kafka, system.topics, system.codec, system.partitions) as tail:
        publisher.publish(command, on_delivery=delivered)
        publisher.flush(20.0)
        if not wait_for_all(matcher, tail, stall_s):
            raise PartUnavailableError(
                "Settlement", system.topics.submitted,
                f"no outcome of {what} within {stall_s:.0f} s; see `clearline status` for the workers, then try again "
                f"with --key {command.idempotency_key}",
            )  # fmt: skip
    return sorted(outcomes, key=lambda o: o.partition)
