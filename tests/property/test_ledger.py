"""The Book against a model that is too plain to be wrong, with hypothesis looking for the order of events that differs."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.ledger_commands import KINDS, command, refunds
from tests.ledger_machine import Machine

pytestmark = [
    pytest.mark.no_cover,  # tracing would triple its time, and the examples cover every line
    pytest.mark.timeout(900),
]
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
SEQUENCES, STEPS = {"quick": (20, 60), "ci": (512, 512), "long": (4_096, 512)}[PROFILE]
SEEDS = st.integers(0, 2**24 - 1)  # small numbers, because hypothesis bounds the bytes of one sequence


class BooksBesideModels(RuleBasedStateMachine):
    """Commands one at a time and in batches, over one partition or three, and what may happen to their drafts."""

    @initialize(partitions=st.sampled_from((1, 3)), shelf=st.booleans())
    def begin(self, partitions: int, shelf: bool) -> None:
        self.machine = Machine(partitions, shelf=shelf)
        self.sound = True

    @rule(seed=SEEDS, kind=st.sampled_from(list(KINDS)))
    def settle_one(self, seed: int, kind: str) -> None:
        random = self._go(seed)
        self.machine.play(random, 1, lambda random, model: command(random, model, kind))
        self.sound = True

    @rule(seed=SEEDS)
    def settle_a_batch(self, seed: int) -> None:
        random = self._go(seed)
        self.machine.play(random, random.randint(2, 6))
        self.sound = True

    @rule(seed=SEEDS)
    def refund_one_payment_often(self, seed: int) -> None:
        self.machine.settle(refunds(self._go(seed), self.machine.newest(), 5))
        self.sound = True

    @rule(seed=SEEDS)
    def commit(self, seed: int) -> None:
        self._go(seed)
        self.machine.commit()
        self.sound = True

    @rule(seed=SEEDS)
    def drop(self, seed: int) -> None:
        self._go(seed)
        self.machine.drop()
        self.sound = True

    def teardown(self) -> None:
        """Whatever happened: when all is delivered, no money is left between the partitions."""
        if getattr(self, "sound", False):
            self.machine.land()

    def _go(self, seed: int) -> Random:
        """To any partition; what fails from here on needs no last check."""
        self.sound = False
        random = Random(seed)
        self.machine.go(random)
        return random


TestBooksBesideModels = BooksBesideModels.TestCase
TestBooksBesideModels.settings = settings(max_examples=SEQUENCES, stateful_step_count=STEPS)
