"""The Book against a model that is too plain to be wrong, with hypothesis looking for the order of events that differs."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.ledger_commands import KINDS, command, refunds
from tests.ledger_machine import Machine

pytestmark = [
    pytest.mark.no_cover,  # tracing would triple its time, and the examples cover every line
    pytest.mark.timeout(900),
]
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
SEQUENCES, STEPS = {"quick": (20, 60), "ci": (512, 512), "long": (4_096, 512)}[PROFILE]
SEEDS = st.integers(0, 2**24 - 1)  # small numbers, because hypothesis bounds the bytes of one sequence


class BookBesideModel(RuleBasedStateMachine):
    """Commands one at a time and in batches, and what may happen to their drafts."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()

    @rule(seed=SEEDS, kind=st.sampled_from(list(KINDS)))
    def settle_one(self, seed: int, kind: str) -> None:
        self.machine.play(Random(seed), 1, lambda random, model: command(random, model, kind))

    @rule(seed=SEEDS)
    def settle_a_batch(self, seed: int) -> None:
        random = Random(seed)
        self.machine.play(random, random.randint(2, 6))

    @rule(seed=SEEDS)
    def refund_one_payment_often(self, seed: int) -> None:
        self.machine.settle(refunds(Random(seed), self.machine.newest(), 5))

    @rule()
    def commit(self) -> None:
        self.machine.commit()

    @rule()
    def drop(self) -> None:
        self.machine.drop()


TestBookBesideModel = BookBesideModel.TestCase
TestBookBesideModel.settings = settings(max_examples=SEQUENCES, stateful_step_count=STEPS)
