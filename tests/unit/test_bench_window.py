"""The span over which a benchmark counts: never an empty one, however small the backlog."""

from __future__ import annotations

import pytest

from benchmarks.harness import Sample, rate, window

ENDS = {0: 100, 1: 100}


def sample(at: float, done: int, ready: int = 1) -> Sample:
    return Sample(at, {0: done, 1: done}, ready, {})


@pytest.mark.parametrize("samples", [
    [sample(0, 0), sample(1, 100)],
    [sample(0, 0), sample(1, 0), sample(2, 100), sample(3, 100)],
])  # fmt: skip
def test_a_backlog_that_is_gone_between_two_samples_has_a_rate(samples: list[Sample]):
    first, last = window(samples, 1, ENDS)
    assert first.total == 0
    assert rate(first, last) > 0


def test_the_span_begins_when_all_workers_have_begun():
    samples = [sample(0, 0), sample(1, 10, 1), sample(2, 20, 2), sample(9, 100, 2)]
    first, last = window(samples, 2, ENDS)
    assert (first.at, last.at) == (2, 9)
