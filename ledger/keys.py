"""The memory of idempotency keys: 32 bytes a slot, 40 to 52 bytes a key, looked up for a whole batch at once.

A Python dict would cost about 190 bytes a key; one of at most 2,048 keys takes what comes in small batches, for which
numpy's fixed cost would be most of a settlement. The keys of one span of event time form a generation; a generation is
dropped whole when all of it is older than the window, so memory is bounded by rate times window, and what is remembered
is a function of the log alone: a rebuild from the journal gives the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

GENERATIONS = 4  # spans in one window; what is remembered is between 4/4 and 5/4 of it
_FIRST_SLOTS = 1_031
_LOAD_MAX = 0.8
_GROWTH = 1.3
_FEW = 256  # up to this many ids a loop is cheaper than numpy's fixed cost
_RECENT_MAX = 2_048
_RECENT_BYTES = 230  # of one key in a dict: the key, its digest, its offset, the tuple and the entry

Found = dict[bytes, tuple[bytes, int]]


def _prime_from(n: int) -> int:
    n |= 1
    while any(n % d == 0 for d in range(3, int(n**0.5) + 1, 2)):
        n += 2
    return n


class _Table:
    """Open addressing with double hashing over four columns: the id's two halves, the digest, the first offset."""

    __slots__ = ("columns", "count", "recent", "slots")

    def __init__(self, slots: int = _FIRST_SLOTS) -> None:
        self.recent: Found = {}
        self.slots = slots
        self.count = 0
        self.columns: U64 = np.zeros((4, slots), np.uint64)

    def find(self, ids: Sequence[bytes], out: Found) -> None:
        """Puts what is remembered of these ids into `out`."""
        recent = self.recent  # before the columns: what leaves it is in them already
        if recent:
            for i in ids:
                first = recent.get(i)
                if first is not None:
                    out[i] = first
        columns = self.columns
        if len(ids) <= _FEW:
            self._find_few(columns, ids, out)
            return
        rows = np.frombuffer(b"".join(ids), ">u8").astype(np.uint64).reshape(-1, 2)
        found, at = self._find_many(columns, rows)
        digests, offsets = columns[2], columns[3]
        for i, slot in zip(found.tolist(), at.tolist(), strict=True):
            out[ids[i]] = (int(digests[slot]).to_bytes(8, "big"), int(offsets[slot]))

    @staticmethod
    def _find_few(columns: U64, ids: Sequence[bytes], out: Found) -> None:
        slots = columns.shape[1]
        highs, lows = columns[0].item, columns[1].item
        for i in ids:
            high, low = int.from_bytes(i[:8], "big"), int.from_bytes(i[8:], "big")
            at = high % slots
            while there := highs(at):
                if there == high and lows(at) == low:
                    out[i] = (columns[2].item(at).to_bytes(8, "big"), columns[3].item(at))
                    break
                at = (at + low % (slots - 1) + 1) % slots

    @staticmethod
    def _find_many(columns: U64, rows: U64) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """`rows`: (n, 2) ids. Indices of the rows that are here, and their slots."""
        slots = np.uint64(columns.shape[1])
        high, low = rows[:, 0], rows[:, 1]
        at = high % slots
        step = low % (slots - np.uint64(1)) + np.uint64(1)
        left = np.arange(len(rows))
        found: list[npt.NDArray[np.int64]] = []
        places: list[npt.NDArray[np.int64]] = []
        while len(left):
            there = columns[0, at]
            hit = (there == high) & (columns[1, at] == low)
            if hit.any():
                found.append(left[hit])
                places.append(at[hit].astype(np.int64))
            go_on = ~hit & (there != 0)
            left, high, low, at, step = left[go_on], high[go_on], low[go_on], at[go_on], step[go_on]
            at = (at + step) % slots
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(found), np.concatenate(places)

    def remember(self, key: bytes, digest: bytes, offset: int) -> None:
        """Takes one key that is not here."""
        self.recent[key] = (digest, offset)
        if len(self.recent) >= _RECENT_MAX:
            ids, firsts = list(self.recent), list(self.recent.values())
            self.insert(_rows(ids, [f[0] for f in firsts], [f[1] for f in firsts]))
            self.recent = {}

    def insert(self, rows: U64) -> None:
        """`rows`: (n, 4), ids that are not here and differ from each other."""
        need = self.count + len(rows)
        if need > self.slots * _LOAD_MAX:
            self._grow(int(max(self.slots * _GROWTH, need / _LOAD_MAX * 1.1)))
        columns, slots = self.columns, np.uint64(self.slots)
        at = rows[:, 0] % slots
        step = rows[:, 1] % (slots - np.uint64(1)) + np.uint64(1)
        while len(rows):
            free = columns[0, at] == 0
            columns[:, at[free]] = rows[free].T
            # of several rows that met in one free slot the last has it; it finds itself there
            done = (columns[0, at] == rows[:, 0]) & (columns[1, at] == rows[:, 1])
            rows, at, step = rows[~done], at[~done], step[~done]
            at = (at + step) % slots
        self.count = need

    def _grow(self, slots: int) -> None:
        """Takes a larger table into use when it is complete: the agent looks keys up while the core adds some."""
        kept = self.columns[:, self.columns[0] != 0]
        grown = _Table(_prime_from(slots))
        if kept.shape[1]:
            grown.insert(np.ascontiguousarray(kept.T))
        self.slots, self.columns = grown.slots, grown.columns


def _rows(ids: Sequence[bytes], digests: Sequence[bytes], offsets: Sequence[int]) -> U64:
    rows = np.empty((len(ids), 4), np.uint64)
    rows[:, :2] = np.frombuffer(b"".join(ids), ">u8").reshape(-1, 2)
    rows[:, 2] = np.frombuffer(b"".join(digests), ">u8")
    rows[:, 3] = offsets
    return rows


class KeyIndex:
    """The keys of one partition. `window_ms`: for how long a key is remembered at least, in event time."""

    __slots__ = ("_tables", "span_ms")

    def __init__(self, window_ms: int) -> None:
        self.span_ms = max(1, window_ms // GENERATIONS)
        self._tables: dict[int, _Table] = {}

    def generation(self, time_ms: int) -> int:
        """The generation that a time belongs to. A batch whose commands span two is looked up in two parts."""
        return time_ms // self.span_ms

    def find(self, ids: Sequence[bytes], event_time: int) -> Found:
        """What is remembered of these 16-byte ids at `event_time`: id -> (payload digest, first source offset)."""
        if not ids or not self._tables:
            return {}
        oldest = self.generation(event_time) - GENERATIONS
        out: Found = {}
        for generation, table in sorted(self._tables.items()):
            if generation >= oldest:
                table.find(ids, out)
        return out

    def add(self, ids: Sequence[bytes], digests: Sequence[bytes], offsets: Sequence[int], times: Sequence[int]) -> None:
        """Remembers new keys with the append times (milliseconds) of the commands that bound them."""
        if not ids:
            return
        if len(ids) <= _FEW:
            for key, digest, offset, time_ms in zip(ids, digests, offsets, times, strict=True):
                self._table(self.generation(time_ms)).remember(key, digest, offset)
            return
        rows = _rows(ids, digests, offsets)
        low, high = self.generation(min(times)), self.generation(max(times))
        if low == high:
            self._table(low).insert(rows)
            return
        generations = np.asarray(times, np.int64) // self.span_ms
        for g in range(low, high + 1):
            if (generations == g).any():
                self._table(g).insert(rows[generations == g])

    def _table(self, generation: int) -> _Table:
        table = self._tables.get(generation)
        if table is None:
            table = self._tables[generation] = _Table()
        return table

    def forget(self, event_time: int) -> None:
        """Drops the generations that no command from `event_time` on can meet."""
        oldest = self.generation(event_time) - GENERATIONS
        for g in [g for g in self._tables if g < oldest]:
            del self._tables[g]

    def oldest_ms(self, event_time: int) -> int:
        """Start of the oldest generation that is still remembered at `event_time`; a rebuild reads from there."""
        return max(0, (self.generation(event_time) - GENERATIONS) * self.span_ms)

    def dump(self) -> list[tuple[int, bytes]]:
        """All that is remembered, as plain values: generation and rows of four 64-bit integers each."""
        out = []
        for generation, table in sorted(self._tables.items()):
            kept = np.ascontiguousarray(table.columns[:, table.columns[0] != 0].T)
            if table.recent:
                firsts = list(table.recent.values())
                recent = _rows(list(table.recent), [f[0] for f in firsts], [f[1] for f in firsts])
                kept = np.concatenate([kept, recent])
            out.append((generation, kept.tobytes()))
        return out

    def load(self, dumped: Sequence[tuple[int, bytes]]) -> None:
        """Takes what `dump` gave into an index that is empty."""
        for generation, rows in dumped:
            self._table(generation).insert(np.frombuffer(rows, np.uint64).reshape(-1, 4))

    def __len__(self) -> int:
        return sum(t.count + len(t.recent) for t in list(self._tables.values()))

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM held."""
        return sum(t.columns.nbytes + len(t.recent) * _RECENT_BYTES for t in list(self._tables.values()))
