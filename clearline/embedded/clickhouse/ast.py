"""A statement as the engine's own parser understands it, from the text of EXPLAIN AST."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_TAIL: Final = re.compile(r"( \(alias .*?\))?( \(children \d+\))?$")


@dataclass(slots=True)
class Node:
    """`kind`: the engine's word for it, such as SelectQuery; `name`: what follows, such as a table's name."""

    kind: str
    name: str
    parent: Node | None
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def above(self, kind: str) -> Node | None:
        """The nearest node of a kind that this one stands in."""
        node = self.parent
        while node is not None and node.kind != kind:
            node = node.parent
        return node


def parse(text: str) -> Node:
    """The tree of EXPLAIN AST. Names hold no line ends: policy refuses statements that could bring some in."""
    root = Node("", "", None)
    path = [root]
    for line in text.splitlines():
        words = line.lstrip(" ")
        if not words:
            continue
        depth = len(line) - len(words) + 1
        kind, _, rest = words.partition(" ")
        del path[depth:]
        # "TableIdentifier w.p (alias b) (children 1)": the name is what stands before the first of both.
        node = Node(kind, _TAIL.sub("", f" {rest}").strip(), path[-1])
        path[-1].children.append(node)
        path.append(node)
    return root
