"""The memory of idempotency keys against a dict: what must be found is found, what is found is right, at under 64 bytes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.keys import GENERATIONS, KeyIndex

WINDOW_MS = 4_000


def unique(n: int) -> bytes:
    return Random(n).randbytes(16)


@settings(max_examples=60)
@given(
    batches=st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 3_000), st.sampled_from([1, 3, 700])), min_size=1, max_size=12
    )
)
def test_it_answers_as_a_dict_does_within_the_window(batches):
    """Batches of all sizes, time going on between them: a few keys at once, many at once, one by one."""
    index, model = KeyIndex(WINDOW_MS), dict[bytes, tuple[bytes, int, int]]()
    now, offset = 1_000_000, 0
    for count, passed, size in batches:
        now += passed
        new = [unique(offset + i) for i in range(count)]
        for start in range(0, count, size):
            ids = new[start : start + size]
            offsets = list(range(offset + start, offset + start + len(ids)))
            index.add(ids, [i[:8] for i in ids], offsets, [now] * len(ids))
            model.update({i: (i[:8], o, now) for i, o in zip(ids, offsets, strict=True)})
        offset += count
        index.forget(now)
        asked = [*model, unique(10**9), unique(10**9 + 1)]
        found = index.find(asked, now)
        assert found.items() <= {i: (d, o) for i, (d, o, _) in model.items()}.items()
        must = {i for i, (_, _, at) in model.items() if at > now - WINDOW_MS}
        assert must <= set(found)
        span = WINDOW_MS // GENERATIONS
        may_not = {i for i, (_, _, at) in model.items() if at < now - WINDOW_MS - 2 * span}
        assert not may_not & set(found)
        assert index.find(asked[:2], now) == {i: found[i] for i in asked[:2] if i in found}


def test_what_is_remembered_depends_on_the_log_alone():
    """A rebuild adds the same keys in larger batches, and knows the same."""
    slowly, at_once = KeyIndex(WINDOW_MS), KeyIndex(WINDOW_MS)
    ids = [unique(i) for i in range(5_000)]
    times = [1_000 + 2 * i for i in range(5_000)]
    for i, (name, time) in enumerate(zip(ids, times, strict=True)):
        slowly.add([name], [name[:8]], [i], [time])
        slowly.forget(time)
    at_once.add(ids, [i[:8] for i in ids], list(range(5_000)), times)
    at_once.forget(times[-1])
    assert slowly.find(ids, times[-1]) == at_once.find(ids, times[-1])
    assert 0 < len(slowly) == len(at_once) < 5_000
    later = times[-1] + 10 * WINDOW_MS
    assert at_once.find(ids, later) == {}
    at_once.forget(later)
    assert len(at_once) == 0


@pytest.mark.parametrize("keys", [20_000, 100_000, 345_678])
def test_a_key_costs_less_than_64_bytes(keys):
    index, random = KeyIndex(7 * 86_400_000), Random(keys)
    for start in range(0, keys, 2_000):
        ids = [random.randbytes(16) for _ in range(min(2_000, keys - start))]
        index.add(ids, [i[:8] for i in ids], list(range(start, start + len(ids))), [1] * len(ids))
        if start > 10_000:
            assert index.memory_bytes < 64 * len(index)
    assert len(index) == keys


def test_nothing_is_found_in_nothing():
    index = KeyIndex(WINDOW_MS)
    assert index.find([unique(1)], 5) == index.find([], 5) == {}
    index.add([], [], [], [])
    assert (len(index), index.memory_bytes) == (0, 0)
    assert index.oldest_ms(10 * WINDOW_MS) == 9 * WINDOW_MS
