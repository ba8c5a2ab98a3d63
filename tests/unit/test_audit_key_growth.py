"""Keys are looked up by the agent while the core adds others; a key that was once there must never seem to be gone."""

from __future__ import annotations

import threading

from ledger.keys import KeyIndex

FIRST = [bytes([1, i >> 8, i & 255]).ljust(16, b"\x07") for i in range(700)]


def more(start: int, n: int) -> list[bytes]:
    return [(start + i).to_bytes(8, "big") + (start * 31 + i).to_bytes(8, "little") for i in range(n)]


def test_a_known_key_is_found_at_every_moment_of_growth() -> None:
    index = KeyIndex(window_ms=4_000)
    index.add(FIRST, [b"d" * 8] * len(FIRST), list(range(len(FIRST))), [1] * len(FIRST))
    missed: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            found = len(index.find(FIRST, 1))
            if found != len(FIRST):
                missed.append(found)

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(50):
        ids = more(2**40 + i * 1_000, 500)
        index.add(ids, [b"e" * 8] * len(ids), [0] * len(ids), [1] * len(ids))
    done.set()
    reader.join()
    assert missed == []
