"""The matcher against one that looks at every pair, on small random cases; and that the order of a file says nothing."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from clearline.recon.breaks import Period, find_breaks
from clearline.recon.match import PASSES, Matcher, Rules, normal, sides
from clearline.recon.run import _line_frame, _posting_frame
from clearline.recon.unreferenced import _down, _up
from tests.recon_oracle import L, P, Verdict, judge

DAY = 60
NAMES = ["", "", "a", "A ", "b", "NOTPROVIDED", "c  d", "C D", "ß"]
AMOUNTS = [-101, -100, -99, -60, -40, 40, 60, 99, 100, 101, 140, 2**63 - 1, 2**62]

lines_of = st.lists(
    st.builds(
        L, day=st.integers(0, 6), amount=st.sampled_from([0, *AMOUNTS]), reference=st.sampled_from(NAMES),
        bank_reference=st.sampled_from(["", "", "x", "y"]), text=st.sampled_from(["", "t"]),
        statement=st.integers(0, 2), number=st.just(0), detail=st.integers(0, 1),
    ), max_size=9,
)  # fmt: skip
postings_of = st.lists(
    st.builds(
        P, day=st.integers(0, 6), amount=st.sampled_from(AMOUNTS), reference=st.sampled_from(NAMES),
        partition=st.integers(0, 1), sequence=st.just(0), leg=st.integers(0, 1),
    ), max_size=9,
)  # fmt: skip
rules_of = st.builds(Rules, st.integers(0, 3), st.sampled_from([0, 1, 2, 45, 2**63 - 1]))


def numbered(lines: list[L], postings: list[P]) -> tuple[list[L], list[P]]:
    return (
        [x._replace(number=i + 1) for i, x in enumerate(lines)],
        [y._replace(sequence=i + 1) for i, y in enumerate(postings)],
    )


def columns(rows: list[tuple], width: int) -> list[list]:
    return [list(c) for c in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def found(
    lines: list[L],
    postings: list[P],
    rules: Rules,
    first: int,
    last: int,
    taken: tuple[set[L], set[P]] = (set(), set()),
) -> Verdict:
    """What the program finds, in the oracle's words."""
    line_frame = _line_frame(columns([
        (*x[5:8], x.day, x.day, x.amount, x.reference, x.bank_reference, x.text, x in taken[0]) for x in lines
    ], 10))  # fmt: skip
    posting_frame = _posting_frame(columns([
        (*y[3:6], y.day, y.day, y.amount > 0, abs(y.amount), y.reference, y in taken[1]) for y in postings
    ], 9), 1)  # fmt: skip
    by_line = {x[5:8]: x for x in lines}
    by_posting = {y[3:6]: y for y in postings}
    both = sides(line_frame, posting_frame)
    line_at = [by_line[row] for row in both[0].frame.select("statement", "number", "detail").iter_rows()]
    posting_at = [by_posting[row] for row in both[1].frame.select("partition", "sequence", "leg").iter_rows()]
    links = Matcher(*both, rules).run()
    groups: dict[int, tuple[str, set[L], set[P]]] = {}
    for x, y, match, place in zip(*(c.tolist() for c in links), strict=True):
        group = groups.setdefault(match, (PASSES[place], set(), set()))
        group[1].add(line_at[x])
        group[2].add(posting_at[y])
    assert sorted(groups) == list(range(1, len(groups) + 1))
    out = Verdict([(name, frozenset(ls), frozenset(ps)) for name, ls, ps in groups.values()])
    breaks, not_due = find_breaks("a", ["s0", "s1", "s2"], *both, rules, Period(first, last, DAY))
    for b in breaks:
        x = by_line[b.line["statement"], b.line["number"], b.line["detail"]] if b.line else None
        y = by_posting[b.posting["partition"], b.posting["sequence"], b.posting["leg"]] if b.posting else None
        out.breaks.append((b.type, x, y, b.candidates))
        assert b.difference == (x.amount if x else 0) - (y.amount if y else 0)
        assert b.age_days == DAY - max(i.day for i in (x, y) if i)
    assert len({b.id for b in breaks}) == len(breaks)
    out.not_due = [posting_at[i] for i in both[1].free.nonzero()[0].tolist()]
    assert len(out.not_due) == not_due
    return out


def assert_same(mine: Verdict, theirs: Verdict) -> None:
    assert Counter(mine.matches) == Counter(theirs.matches)
    assert Counter(mine.breaks) == Counter(theirs.breaks)
    assert Counter(mine.not_due) == Counter(theirs.not_due)


def plain(verdict: Verdict) -> tuple[Counter, Counter]:
    """A verdict without the places that lines have in their file."""

    def bare(x: L | None) -> L | None:
        return x._replace(number=0, detail=0) if x else None

    return (
        Counter((n, tuple(sorted(bare(x) or L(0, 0) for x in ls)), ps) for n, ls, ps in verdict.matches),
        Counter((t, bare(x), y, n) for t, x, y, n in verdict.breaks),
    )


@given(lines_of, postings_of, rules_of, st.tuples(st.integers(0, 6), st.integers(0, 6)))
@example([L(1, 100, "a"), L(1, 100, "a")], [P(1, 100, "a"), P(2, 100, "a")], Rules(1, 0), (0, 6))
@example([L(3, 100, "a")], [P(2, 60, "a"), P(4, 40, "a")], Rules(1, 0), (0, 6))
@example([L(1, 98, "a")], [P(1, 100, "a"), P(1, -2, "a")], Rules(0, 0), (0, 6))
@example([L(0, 100, "a")], [P(5, 100, "a"), P(3, 101, "a")], Rules(1, 1), (0, 6))
@example([L(1, 2**63 - 1, "")], [P(1, 1, "")], Rules(0, 2**63 - 1), (0, 6))
def test_it_finds_what_one_finds_that_looks_at_every_pair(lines, postings, rules, period):
    lines, postings = numbered(lines, postings)
    first, last = min(period), max(period)
    assert_same(found(lines, postings, rules, first, last), judge(lines, postings, rules[0], rules[1], first, last))


@given(lines_of, postings_of, rules_of, st.randoms(use_true_random=False))
@example([L(0, -101, "a", detail=0), L(0, -101, "a", detail=1)], [], Rules(0, 0), random.Random(1))
def test_the_order_of_lines_in_a_file_changes_nothing(lines, postings, rules, rnd):
    _, postings = numbered([], postings)
    other = list(lines)
    rnd.shuffle(other)
    mine, theirs = (found(numbered(x, [])[0], postings, rules, 0, 6) for x in (lines, other))
    assert plain(mine) == plain(theirs)


@given(lines_of, postings_of, rules_of, st.integers(0, 9))
def test_a_later_run_keeps_what_was_matched_and_goes_on(lines, postings, rules, known):
    lines, postings = numbered(lines, postings)
    before = found(lines, postings[:known], rules, 0, 6)
    taken = {x for _, ls, _ in before.matches for x in ls}, {y for _, _, ps in before.matches for y in ps}
    later = found(lines, postings, rules, 0, 6, taken)
    assert not any(ls & taken[0] or ps & taken[1] for _, ls, ps in later.matches)
    assert_same(later, judge(lines, postings, rules[0], rules[1], 0, 6, taken))


def test_a_reference_that_tells_nothing_apart_is_passed_over():
    lines, postings = numbered([L(1, 100 + i, "a") for i in range(21)], [P(2, 100 + i, "a") for i in range(20)])
    verdict = found(lines, postings, Rules(1, 0), 0, 6)
    assert not verdict.matches
    assert {b[0] for b in verdict.breaks} == {"missing_in_ledger", "missing_in_statement"}
    assert_same(verdict, judge(lines, postings, 1, 0, 0, 6))
    assert len(found(lines[:20], postings, Rules(1, 0), 0, 6).matches) == 20


def test_many_items_larger_than_what_the_property_draws():
    rnd = random.Random(7)
    lines, postings = numbered(
        [L(rnd.randrange(12), rnd.choice(AMOUNTS), rnd.choice(["", f"r{rnd.randrange(20)}"])) for _ in range(120)],
        [P(rnd.randrange(12), rnd.choice(AMOUNTS), rnd.choice(["", f"r{rnd.randrange(20)}"])) for _ in range(120)],
    )
    for rules in (Rules(0, 0), Rules(1, 1), Rules(3, 41)):
        assert_same(found(lines, postings, rules, 2, 9), judge(lines, postings, rules[0], rules[1], 2, 9))


@given(st.integers(-(2**63) + 1, 2**63 - 1).filter(bool), st.integers(0, 2**63 - 1))
def test_the_range_of_near_amounts_keeps_the_sign_and_never_wraps(amount, tolerance):
    import numpy as np

    one = np.array([amount], dtype=np.int64)
    low, high = int(_down(one, tolerance)[0]), int(_up(one, tolerance)[0])
    lowest, highest = (1, 2**63 - 1) if amount > 0 else (-(2**63) + 1, -1)
    assert (low, high) == (max(lowest, amount - tolerance), min(highest, amount + tolerance))


def test_references_are_compared_without_case_and_spaces():
    assert normal("  order\t 1001 ") == "ORDER 1001"
    assert normal("notProvided") == normal(" ") == ""
