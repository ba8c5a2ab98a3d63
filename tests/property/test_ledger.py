"""The Book against a model that is too plain to be wrong, with hypothesis looking for the order of events that differs."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.ledger_commands import command
from tests.ledger_machine import Machine

pytestmark = pytest.mark.no_cover  # tracing would triple its time, and the examples cover every line
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


class BookBesideModel(RuleBasedStateMachine):
    """Batches of commands, and what may happen to their drafts."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()

    @rule(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
    def settle(self, seeds: list[int]) -> None:
        self.machine.settle([command(Random(seed)) for seed in seeds])

    @rule()
    def commit(self) -> None:
        self.machine.commit()

    @rule()
    def drop(self) -> None:
        self.machine.drop()


TestBookBesideModel = BookBesideModel.TestCase
TestBookBesideModel.settings = settings(max_examples=512 if LONG else 30, stateful_step_count=512 if LONG else 40)
