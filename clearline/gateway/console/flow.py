"""The map of the flow as a drawing: nodes are processes, topics and stores, edges say how much goes over them and how
far the one behind is. One drawing for wide windows and one for narrow ones, with the same nodes and edges.

Colour never says anything alone: what is wrong is also written. The same is a table beside the drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clearline.gateway.console.facts import Facts, Role

WIDTH, HEIGHT = 148, 54  # of a node
_STORES = {"sink-clickhouse": "ClickHouse", "sink-redis": "Redis", "webhooks": "partners"}
_FOLLOWERS = ("sink-clickhouse", "sink-redis", "tieout", "sealer", "webhooks")
_WIDE: dict[str, tuple[int, int]] = {
    "gateway": (0, 140), "submitted": (260, 140), "worker": (520, 140), "journal": (780, 140), "dead": (520, 290),
    "sink-clickhouse": (1040, 0), "sink-redis": (1040, 72), "tieout": (1040, 144), "sealer": (1040, 216),
    "webhooks": (1040, 288), "ClickHouse": (1300, 0), "Redis": (1300, 72), "partners": (1300, 288),
}  # fmt: skip
_NARROW: dict[str, tuple[int, int]] = {
    "gateway": (0, 0), "submitted": (0, 116), "worker": (0, 232), "dead": (200, 232), "journal": (0, 348),
    "sink-clickhouse": (36, 424), "sink-redis": (36, 496), "tieout": (36, 568), "sealer": (36, 640),
    "webhooks": (36, 712),
}  # fmt: skip
_TITLES = {"gateway": "gateways", "worker": "workers", "dead": "dead letters", "submitted": "submitted"}


@dataclass(frozen=True, slots=True)
class Node:
    """A box. `state`: well, troubled or unknown; `said`: a line about it."""

    name: str
    title: str
    said: str
    state: str
    kind: str
    x: int = 0
    y: int = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from one node to another. `rate`: records a second; `behind`: records that wait; `seconds`: how old the
    oldest of them is. None: not known."""

    source: str
    target: str
    rate: float | None
    behind: int | None = None
    seconds: float | None = None
    waits: bool = False

    @property
    def said(self) -> str:
        """Its figures in words."""
        return ", ".join(filter(None, (self.rate_said, self.behind_said, self.age_said)))

    @property
    def rate_said(self) -> str:
        """How much goes over it."""
        return "" if self.rate is None else f"{short(self.rate)}/s"

    @property
    def behind_said(self) -> str:
        """How far the one at its end is behind; empty where nothing can be."""
        if self.behind is None:
            return ""
        return f"{short(self.behind)} wait{'s' if self.behind == 1 else ''}" if self.behind else "none waits"

    @property
    def age_said(self) -> str:
        """How old the oldest of what waits is."""
        return f"{short(self.seconds)} s" if self.seconds is not None and self.behind else ""


class Label(NamedTuple):
    """A text in a drawing, and where it stands."""

    x: int
    y: int
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """An edge in a drawing: its path and its labels."""

    edge: Edge
    path: str
    labels: Sequence[Label]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Nodes and lines in a box of this size."""

    name: str
    width: int
    height: int
    nodes: Sequence[Node]
    lines: Sequence[Line]


@dataclass(slots=True)
class Rates:
    """Records a second between two looks. `outcomes`: of all workers together."""

    submitted: float | None = None
    outcomes: float | None = None
    dead: float | None = None
    of: dict[str, float] = field(default_factory=dict)


def number(value: float | None) -> str:
    """A rate or seconds for people: with a decimal only where that says something."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def short(value: float) -> str:
    """The same where there is little room: 123 k, 12.3 M."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= 100_000 and value >= size:
            return f"{value / size:,.0f} {letter}" if value >= 100 * size else f"{value / size:.1f} {letter}"
    return number(value)


def rates(first: Facts, last: Facts) -> Rates:
    """What went on between two looks; what a role says itself where it does not count."""
    out = Rates()
    seconds = (last.at_ms - first.at_ms) / 1000
    out.of = {r.name: r.rate for r in last.roles if r.rate is not None}
    if seconds <= 0:
        return out
    if last.ends and first.ends:
        out.submitted = max(0, sum(last.ends.values()) - sum(first.ends.get(p, 0) for p in last.ends)) / seconds
    if last.dead is not None and first.dead is not None:
        out.dead = max(0, sum(last.dead.values()) - sum(first.dead.values())) / seconds
    before = {(r.name, r.pid): r.done for r in first.roles}
    done = [(r, before.get((r.name, r.pid))) for r in last.roles if r.done is not None]
    for role, then in done:
        if then is not None and role.rate is None:
            out.of[role.name] = max(0, (role.done or 0) - then) / seconds
    workers = [out.of[r.name] for r in last.roles if r.kind == "worker" and r.name in out.of]
    if workers:
        out.outcomes = sum(workers)
    return out


def nodes_and_edges(facts: Facts, rate: Rates) -> tuple[list[Node], list[Edge]]:
    """The map. Roles that do not run here have no node, but for those without which nothing goes."""
    by_kind: dict[str, list[Role]] = {}
    for role in facts.roles:
        by_kind.setdefault(role.kind, []).append(role)
    nodes = [
        _processes("gateway", by_kind.get("gateway", [])),
        Node("submitted", "submitted", f"{sum(facts.ends.values()):,} offsets" if facts.ends else "not known",
             "well" if facts.ends else "unknown", "topic"),
        _processes("worker", by_kind.get("worker", [])),
        Node("journal", "journal", f"{sum(h.sequence for h in facts.heads.values()):,} records" if facts.heads else "",
             "well", "topic"),
        Node("dead", "dead letters", f"{sum(facts.dead.values()):,} letters" if facts.dead is not None else "not known",
             "well" if facts.dead is not None else "unknown", "topic"),
    ]  # fmt: skip
    edges = [
        Edge("gateway", "submitted", rate.submitted),
        Edge("submitted", "worker", rate.outcomes, *_behind(facts, "settlement")),
        Edge("worker", "journal", rate.outcomes),
        Edge("worker", "dead", rate.dead),
    ]
    for kind in _FOLLOWERS:
        roles = by_kind.get(kind, [])
        if not roles:
            continue
        nodes.append(_processes(kind, roles))
        found = [rate.of[r.name] for r in roles if r.name in rate.of]
        own, behind = sum(found) if found else None, _behind_many(facts, [r.name for r in roles])
        waits = any(r.why for r in roles)
        edges.append(Edge("journal", kind, own, *behind, waits))
        if store := _STORES.get(kind):
            nodes.append(_store(store, facts, roles))
            edges.append(Edge(kind, store, own, waits=waits))
    return nodes, edges


def drawings(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[Drawing]:
    """The map wide and narrow."""
    return [_drawing("wide", _WIDE, nodes, edges), _drawing("narrow", _NARROW, nodes, edges)]


def _processes(kind: str, roles: Sequence[Role]) -> Node:
    title = _TITLES.get(kind, kind)
    if not roles:
        return Node(kind, title, "none here", "unknown", "role")
    well = sum(r.well for r in roles)
    if well == len(roles):
        said = "ready" if len(roles) == 1 else f"{well} ready"
        return Node(kind, title, said, "well", "role")
    first = next(r for r in roles if not r.well)
    word = first.state if first.state != "ready" else "waits"
    return Node(kind, title, word if len(roles) == 1 else f"{well} of {len(roles)} ready", "troubled", "role")


def _store(name: str, facts: Facts, roles: Sequence[Role]) -> Node:
    """A store: by its own answer; where nobody asked it, by whether its sink waits for it."""
    if name not in facts.stores:
        waits = any(r.why for r in roles)
        return Node(name, name, "awaited" if waits else "", "troubled" if waits else "well", "store")
    why = facts.stores[name]
    return Node(name, name, "troubled" if why else "answers", "troubled" if why else "well", "store")


def _behind(facts: Facts, role: str) -> tuple[int | None, float | None]:
    found = facts.behind.get(role)
    return (sum(found.values()) if found is not None else None), facts.seconds.get(role)


def _behind_many(facts: Facts, roles: Iterable[str]) -> tuple[int | None, float | None]:
    found = [_behind(facts, r) for r in roles]
    counts = [n for n, _ in found if n is not None]
    ages = [s for _, s in found if s is not None]
    return (sum(counts) if counts else None), (max(ages) if ages else None)


def _drawing(name: str, places: Mapping[str, tuple[int, int]], nodes: Sequence[Node], edges: Sequence[Edge]) -> Drawing:
    placed = {
        n.name: Node(n.name, n.title, n.said, n.state, n.kind, *places[n.name]) for n in nodes if n.name in places
    }
    lines = [_line(placed[e.source], placed[e.target], e) for e in edges if e.source in placed and e.target in placed]
    ends = [n.y + HEIGHT for n in placed.values()] + [label.y + 6 for line in lines for label in line.labels]
    height = max(ends, default=HEIGHT)
    return Drawing(name, max(x for x, _ in places.values()) + WIDTH, height, list(placed.values()), lines)


def _line(a: Node, b: Node, edge: Edge) -> Line:
    """A line that leaves at one side of a box and comes in at another, and its labels where there is room."""
    middle = HEIGHT // 2
    if b.x >= a.x + WIDTH:  # to the right
        x, y, to_x, to_y = a.x + WIDTH, a.y + middle, b.x - 8, b.y + middle
        if y == to_y:
            return Line(edge, f"M{x} {y}H{to_x}", _labels(edge, (x + to_x) // 2 + 2, y, "middle", split=True))
        bend = x + 12
        labels = _labels(edge, (bend + to_x) // 2 + 4, to_y, "middle", split=True)
        return Line(edge, f"M{x} {y}H{bend}V{to_y}H{to_x}", labels)
    if b.x == a.x:  # straight down
        x, y, to_y = a.x + WIDTH // 2, a.y + HEIGHT, b.y - 8
        return Line(edge, f"M{x} {y}V{to_y}", _labels(edge, x + 10, y + 2, "start"))
    x, y, to_x, to_y = a.x + 14, a.y + HEIGHT, b.x - 8, b.y + middle  # down its left side, and in
    return Line(edge, f"M{x} {y}V{to_y}H{to_x}", _labels(edge, b.x + WIDTH + 8, b.y - 2, "start"))


def _labels(edge: Edge, x: int, y: int, anchor: str, *, split: bool = False) -> list[Label]:
    """What an edge says. `split`: its rate above the line at `y`, the rest below it; else one below the other."""
    if split:
        below = [text for text in (edge.behind_said, edge.age_said) if text]
        above = [Label(x, y - 8, anchor, edge.rate_said)] if edge.rate_said else []
        return [*above, *(Label(x, y + 20 + 18 * i, anchor, text) for i, text in enumerate(below))]
    texts = [text for text in (edge.rate_said, edge.behind_said, edge.age_said) if text]
    return [Label(x, y + 18 * (i + 1), anchor, text) for i, text in enumerate(texts)]
