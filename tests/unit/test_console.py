"""The console's drawings and figures: what nobody knows is never shown as nothing, and no text lies over a box."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest

from clearline.gateway.console.board import SECTIONS, bars, draw, overall, partitions, spread, tie_out
from clearline.gateway.console.facts import BOUNDS_MS, Act, Facts, Head, Latency, Role, Trouble
from clearline.gateway.console.flow import HEIGHT, WIDTH, drawings, nodes_and_edges, number, rates
from clearline.gateway.console.live import act_of, distinct, histogram
from streams.metric_names import Name

KINDS = ("gateway", "worker", "sink-clickhouse", "sink-redis", "tieout", "sealer", "webhooks")
WELL = Facts(
    10_000, "live", [Role(f"{kind}-0", kind, "ready", 7, 0, "", 1_000, None, (0, 1)) for kind in KINDS],
    {0: 1_200, 1: 800}, {"settlement": {0: 0, 1: 0}, "sink-clickhouse-0": {0: 12_345, 1: 0}},
    {"sink-clickhouse-0": 3.4}, {0: Head(9, 1_200, "ab" * 32), 1: Head(8, 800, "cd" * 32)},
    Latency([0, 5, *[0] * 12], 4.0, 11.0), {"contract": 2}, None, 3, [], [], [], [],
)  # fmt: skip


def later(**changes: object) -> Facts:
    roles = [replace(r, done=(r.done or 0) + 500) for r in WELL.roles]
    usual: dict[str, Any] = {"at_ms": 20_000, "ends": {0: 1_700, 1: 1_300}, "roles": roles, "dead": {"contract": 12}}
    return replace(WELL, **{**usual, **changes})


def test_rates_are_of_what_lies_between_two_looks() -> None:
    found = rates(WELL, later())
    assert (found.submitted, found.outcomes, found.dead) == (100.0, 50.0, 1.0)
    once = rates(WELL, WELL)
    assert (once.submitted, once.outcomes, once.dead, once.of) == (None, None, None, {})


def test_latency_of_workers_that_run_elsewhere_is_by_the_histogram() -> None:
    """They say counts since they began, and no percentiles."""
    first = replace(WELL, latency=Latency([7, *[0] * 13]))
    counts = [7 + 60, 0, 0, 39, *[0] * 9, 1]
    last = replace(later(), latency=Latency(counts))
    low, fourth = BOUNDS_MS[0], BOUNDS_MS[3]
    said = "between the first and the last look."
    assert spread(first, last) == f"Half took at most {low:,} ms, 99% at most {fourth:,} ms {said}"
    worse = replace(last, latency=Latency([*counts[:-1], 3]))
    assert f"99% more than {BOUNDS_MS[-1]:,} ms" in spread(first, worse)
    assert spread(last, last) == spread(first, first) == "Nothing was settled lately."


def test_a_process_that_began_anew_has_no_rate_yet() -> None:
    first = replace(WELL, roles=[replace(r, pid=6) for r in WELL.roles])
    assert rates(first, later()).of == {}


def test_what_nobody_knows_is_no_zero() -> None:
    sections = draw(
        deque([Facts(10_000, "live", unknown={"lag": "Kafka does not answer", "dead": "why", "acts": "gone"})])
    )
    assert set(sections) == set(SECTIONS)
    assert "Kafka does not answer" in sections["now"] and "verdict bad" in sections["now"]
    assert "why" in sections["dead"] and "gone" in sections["acts"] and "None is open" not in sections["dead"]
    assert ">0<" not in sections["now"] + sections["flow"]
    assert number(None) == "?" and number(0.0) == "0" and number(0.25) == "0.2" and number(12_345.6) == "12,346"


@pytest.mark.parametrize("waiting", [0, 1, 12_345_678])
def test_no_text_of_the_map_lies_over_a_box_or_outside(waiting: int) -> None:
    facts = later(
        behind={**{f"{k}-0": {0: waiting} for k in KINDS}, "settlement": {0: waiting}},
        seconds=dict.fromkeys(("settlement", *(f"{k}-0" for k in KINDS)), 86_400.0),
    )
    nodes, edges = nodes_and_edges(facts, rates(WELL, facts))
    for drawing in drawings(nodes, edges):
        boxes = [(n.x, n.y, n.x + WIDTH, n.y + HEIGHT) for n in drawing.nodes]
        assert all(x >= 0 and y >= 0 and r <= drawing.width and b <= drawing.height for x, y, r, b in boxes)
        for (ax, ay, ar, ab), (bx, by, br, bb) in product(boxes, boxes):
            assert (ax, ay) == (bx, by) or ar <= bx or br <= ax or ab <= by or bb <= ay
        for line, label in ((x, label) for x in drawing.lines for label in x.labels):
            half = 4.2 * len(label.text)  # at 15 px a figure is at most 8.4 wide here
            left = label.x - half if label.anchor == "middle" else label.x
            right = left + 2 * half
            assert right <= drawing.width + 60 and label.y + 5 <= drawing.height, (drawing.name, label)
            for x, y, r, b in boxes:
                over = left < r - 12 and right > x + 12 and label.y - 10 < b and label.y > y
                assert not over, (drawing.name, line.edge, label)


def test_every_edge_is_in_the_table_and_in_both_maps() -> None:
    nodes, edges = nodes_and_edges(later(), rates(WELL, later()))
    wide, narrow = drawings(nodes, edges)
    assert [x.edge for x in wide.lines] == edges
    stores = {"ClickHouse", "Redis", "partners"}
    assert [x.edge for x in narrow.lines] == [e for e in edges if e.target not in stores]
    edge = next(e for e in edges if e.target == "sink-clickhouse")
    assert (edge.said, edge.seconds) == ("50/s, 12,345 wait, 3.4 s", 3.4)


def test_the_histogram_is_of_the_last_seconds() -> None:
    after = later(latency=Latency([0, 5, 0, 7, *[0] * 9, 1], 4.0, 11.0))
    assert [(b.label, b.count, b.width) for b in bars(WELL, after) if b.count] == [
        ("up to 20 ms", 0, 0), ("up to 20 ms", 7, 100), ("over 5,000 ms", 1, 14),
    ][1:]  # fmt: skip
    anew = later(latency=Latency([0, 1, *[0] * 12]))
    assert sum(b.count for b in bars(WELL, anew)) == 1, "a process began anew: all it has"
    assert spread(WELL, WELL).startswith("Half took at most 4 ms, 99% at most 11 ms")
    assert spread(anew, anew) == "Nothing was settled lately."
    assert all(a < b for a, b in pairwise(BOUNDS_MS))


def test_a_workers_histogram_is_read_from_its_metrics() -> None:
    buckets = "".join(f'{Name.LATENCY}_bucket{{le="{ms / 1000}"}} {i}\n' for i, ms in enumerate(BOUNDS_MS, 1))
    text = f'# TYPE {Name.LATENCY} histogram\n{buckets}{Name.LATENCY}_bucket{{le="+Inf"}} 20\n'
    assert histogram(text) == [1] * len(BOUNDS_MS) + [20 - len(BOUNDS_MS)]
    assert histogram("") == [0] * (len(BOUNDS_MS) + 1)


def test_partitions_without_a_worker_are_said_to_have_none() -> None:
    rows = partitions(later(roles=[]))
    assert [(p.number, p.worker, p.well, p.sequence) for p in rows] == [(0, "", False, 9), (1, "", False, 8)]


def test_a_freeze_of_every_partition_is_one_act() -> None:
    told = '{"level": "world", "frozen": "true", "requested_by": "li.wei", "note": "n"}'
    rows = [(10_040, "SetFreeze", "world", told, 1, 9), (10_000, "SetFreeze", "world", told, 0, 8)]
    before = [(2_000, "SetFreeze", "world", told, 0, 4)]
    assert [a.at for a in distinct([*rows, *before])] == [10_040, 2_000]


def test_a_store_that_does_not_answer_is_told_on_the_map() -> None:
    sections = draw(deque([later(stores={"ClickHouse": "connection refused", "Redis": ""})]))
    assert (sections["flow"].count(">answers<"), sections["flow"].count("node store troubled")) == (1, 1)


def test_the_worst_is_said_first() -> None:
    assert overall(WELL).text == "All 7 roles work"
    found = overall(
        later(troubles=[Trouble("clock_skew", "warning", "a clock"), Trouble("broker_down", "critical", "Kafka")])
    )
    assert (found.mood, found.text) == ("bad", "Kafka and 1 more")
    assert overall(later(troubles=[Trouble("clock_skew", "notice", "a clock")])).mood == "good"
    ill = [Role("sink-redis", "sink-redis", "ready", why="Redis does not answer")]
    assert overall(later(roles=ill)).text == "sink-redis: Redis does not answer"


def test_a_tie_out_that_says_nothing_is_not_well() -> None:
    told = {"verdict": "equal", "round_at": 20_000, "lag_seconds": 0.4, "parts": {}}
    assert tie_out(later(tie_out=told)).mood == "good"
    assert tie_out(later(tie_out={**told, "round_at": -20_000})).mood == "bad"
    assert tie_out(
        later(tie_out={**told, "verdict": "differs", "parts": {"redis": {"differences": 3}}})
    ).text.startswith("3 diff")
    assert tie_out(WELL).mood == "none"


def test_acts_are_read_from_the_journals_changes() -> None:
    changes = (
        '{"requested_by": "li.wei", "note": "case 7", "level": "account", "frozen": "%s", "approved_by": "zhang.min"}'
    )
    act = act_of(1, "SetFreeze", "acme:wallet:alice", changes % "true", 2, 71)
    assert act == Act(1, "freeze account", "acme:wallet:alice", "li.wei", "zhang.min", "case 7", 2, 71)
    assert act_of(1, "SetFreeze", "x", changes % "false", 2, 71).act == "lift account"
    assert (
        act_of(1, "OperatorAct", "t1", '{"act": "dlq.redrive", "requested_by": "li.wei", "note": "n"}', 0, 1).act
        == "dlq.redrive"
    )
