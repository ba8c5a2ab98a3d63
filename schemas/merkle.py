"""Merkle trees over journal records, as RFC 6962 builds them: a root for many records, and short proofs that one is in.

A leaf is SHA-256 of byte 0 and the record's Avro body with its chain (the journal value without its wire header), a
node SHA-256 of byte 1, left, right; so no node can pass for a leaf. `root` and `path` are the definition, word for
word, over leaves in memory; `Frontier` comes to the same root while records go by, and keeps one hash per level.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

DIGEST_BYTES = 32


def leaf(record: bytes) -> bytes:
    """The hash of one record, its wire header taken off."""
    return sha256(b"\0" + record).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return sha256(b"\1" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1


def root(leaves: Sequence[bytes]) -> bytes:
    """The tree hash of these leaf hashes. Raises ValueError for none: nothing is never sealed."""
    if not leaves:
        raise ValueError("a tree has at least one leaf")
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node(root(leaves[:k]), root(leaves[k:]))


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The inclusion proof of the leaf at `index`, counted from 0: the sibling at each level, the lowest first.

    Raises ValueError for an index outside of the tree.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*path(leaves[:k], index), root(leaves[k:])]
    return [*path(leaves[k:], index - k), root(leaves[:k])]


def root_from_path(leaf_hash: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root that follows when this leaf stands at `index` of `count`; None when no such tree has such a path."""
    if not 0 <= index < count:
        return None
    found, last = leaf_hash, count - 1
    for sibling in siblings:
        if last == 0 or len(sibling) != DIGEST_BYTES:
            return None
        if index & 1 or index == last:
            found = node(sibling, found)
            while not index & 1:  # a right edge that is not full: the levels at which nothing stands beside it
                index >>= 1
                last >>= 1
        else:
            found = node(found, sibling)
        index >>= 1
        last >>= 1
    return found if last == 0 else None


class Frontier:
    """The tree over the records so far, as the roots of its full subtrees: at most one hash per power of two."""

    __slots__ = ("_roots", "count")

    def __init__(self) -> None:
        self.count = 0
        self._roots: list[bytes] = []

    def add(self, leaf_hash: bytes) -> None:
        """Puts one more leaf at the right end."""
        found, full = leaf_hash, self.count
        while full & 1:
            found = node(self._roots.pop(), found)
            full >>= 1
        self._roots.append(found)
        self.count += 1

    def root(self) -> bytes:
        """The tree hash of what was added. Raises ValueError for nothing."""
        if not self._roots:
            raise ValueError("a tree has at least one leaf")
        found = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            found = node(left, found)
        return found
