"""The long run of a network that is not well: what it draws, and that packets are really lost."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import closing

import pytest

from tests.faults.lossy import Lossy, can_drop
from tests.faults.network import TARGETS, scenarios


def test_every_misfortune_on_every_part_comes_before_any_comes_again() -> None:
    drawn = scenarios(7, 54)
    assert drawn == scenarios(7, 54) != scenarios(8, 54)
    rounds = drawn[:27], drawn[27:]
    for once in rounds:
        assert Counter(s.target for s in once) == dict.fromkeys(TARGETS, 9)
        for target in TARGETS:
            mine = Counter(s.toxic for s in once if s.target == target)
            assert mine == {
                "latency": 2,
                "loss": 2,
                "reset_peer": 1,
                "timeout": 1,
                "slicer": 1,
                "bandwidth": 1,
                "cut": 1,
            }
    assert all(1 <= s.seconds <= 60 for s in drawn)
    lost = [dict(s.attributes)["percent"] for s in drawn if s.toxic == "loss"]
    assert lost.count(100) == 6
    assert all(1 <= x <= 30 for x in lost if x != 100)
    assert {s.target for s in scenarios(3, 7, "redis")} == {"redis"}
    assert not [s for s in scenarios(7, 54, lossy=False) if s.toxic == "loss"]


@pytest.mark.parametrize("stream", ["upstream", "downstream", "both"])
def test_packets_are_lost_one_way_or_both_and_come_again(stream: str) -> None:
    if not can_drop():
        pytest.skip("packets are not dropped: that takes Linux, root and nft")
    with closing(socket.create_server(("127.0.0.1", 0))) as server, Lossy() as lossy:
        port = server.getsockname()[1]
        lossy.drop(port, 100, stream)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=0.3)
        lossy.heal()
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
