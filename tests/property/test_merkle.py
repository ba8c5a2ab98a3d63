"""Merkle trees: the answers of RFC 6962's own test data, two ways to one root, and no proof but the true one."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.merkle import Frontier, leaf, node, path, root, root_from_path

# The inputs and roots of the reference implementation of certificate transparency (merkle tree of 1 to 8 leaves).
INPUTS = [bytes.fromhex(x) for x in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
trees = st.integers(1, 300)


def leaves_of(count: int) -> list[bytes]:
    return [leaf(str(i).encode()) for i in range(count)]


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_those_of_certificate_transparency(count):
    assert root([leaf(x) for x in INPUTS[:count]]).hex() == ROOTS[count - 1]


def test_a_leaf_is_no_node():
    assert leaf(b"") == sha256(b"\0").digest()
    assert node(leaf(b"a"), leaf(b"b")) == sha256(b"\1" + leaf(b"a") + leaf(b"b")).digest()


@given(trees)
def test_the_frontier_comes_to_the_same_root_and_stays_small(count):
    frontier = Frontier()
    for x in leaves_of(count):
        frontier.add(x)
    assert (frontier.root(), frontier.count) == (root(leaves_of(count)), count)
    assert len(frontier._roots) == count.bit_count()


@given(trees, st.data())
def test_every_leaf_proves_itself_and_nothing_else(count, data):
    index = data.draw(st.integers(0, count - 1))
    leaves = leaves_of(count)
    siblings, top = path(leaves, index), root(leaves)
    assert root_from_path(leaves[index], index, count, siblings) == top
    assert root_from_path(leaf(b"another"), index, count, siblings) != top
    other = data.draw(st.integers(-2, count + 2).filter(lambda i: i != index))
    assert root_from_path(leaves[index], other, count, siblings) != top
    assert root_from_path(leaves[index], index, count, [*siblings, leaf(b"more")]) is None
    if siblings:
        assert root_from_path(leaves[index], index, count, siblings[:-1]) is None
        at = data.draw(st.integers(0, len(siblings) - 1))
        bit = data.draw(st.integers(0, 255))
        number = int.from_bytes(siblings[at], "big") ^ 1 << bit
        changed = [*siblings[:at], number.to_bytes(32, "big"), *siblings[at + 1 :]]
        assert root_from_path(leaves[index], index, count, changed) != top


def test_nothing_has_no_tree():
    for ask in (lambda: root([]), Frontier().root, lambda: path([], 0), lambda: path([leaf(b"a")], 1)):
        with pytest.raises(ValueError, match="leaf"):
            ask()
