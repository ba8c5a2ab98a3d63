"""What the gate promises, by the real one over Valkey and by the one in memory that takes its place: the same tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.embedded.valkey import find_server
from clearline.gateway.parts import Gate
from sinks import gate as gates
from sinks.balances import RedisConfig
from sinks.gate import CallLimits, LocalGate, RedisGate, Taken
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack

START_MS = 1_795_338_000_000  # 2026-11-22 09:00 UTC
LIMITS = CallLimits(rate_per_s=10.0, burst=20, per_day=100)
AWAY_S = 0.2


class Clock:
    """A time that only the test moves."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


class Server:
    """A Valkey of the test's own, on one port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [find_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        wait_for("Valkey", self._answers)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def _answers(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("valkey")
    server = Server(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


PROMISED: tuple[type[Gate], ...] = (RedisGate, LocalGate)  # mypy holds both to what the gateway needs
Run = Callable[[Callable[[Any, Clock], Awaitable[None]]], None]


def redis_gate(server: Server, clock: Clock | None, limits: CallLimits = LIMITS, world: str = "") -> RedisGate:
    config = RedisConfig(server.url, world or f"t{uuid.uuid4().hex[:8]}")
    return RedisGate(config, limits, 60, timeout_s=5.0, away_s=AWAY_S, now_ms=clock)


@pytest.fixture(params=["redis", "local"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test over a gate, in a loop of its own."""

    def body(test: Callable[[Any, Clock], Awaitable[None]]) -> None:
        async def with_gate() -> None:
            clock = Clock()
            if request.param == "redis":
                gate: Any = redis_gate(request.getfixturevalue("server"), clock)
            else:
                gate = LocalGate(LIMITS, 60, clock)
            try:
                await test(gate, clock)
                assert gate.local is (request.param == "local")
            finally:
                await gate.close()

        asyncio.run(with_gate())

    return body


def test_a_bucket_is_full_at_first_and_says_what_is_left(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        first = await gate.take("acme", 1)
        assert first[:5] == ("", 19, 0.1, 99, 15 * 3600.0)
        assert (await gate.take("acme", 4))[:4] == ("", 15, 0.5, 95)
        assert (await gate.take("beta", 1))[:4] == ("", 19, 0.1, 99)  # another tree has its own

    run(test)


def test_reports_have_a_bucket_of_their_own(server: Server) -> None:
    async def run() -> None:
        clock, few = Clock(), CallLimits(rate_per_s=0.05, burst=3, per_day=10**12)
        config = RedisConfig(server.url, f"t{uuid.uuid4().hex[:8]}")
        for gate in (
            RedisGate(config, LIMITS, 60, timeout_s=5.0, now_ms=clock, reports=few),
            LocalGate(LIMITS, now_ms=clock, reports=few),
        ):
            for left in (2, 1, 0):
                assert (await gate.take("acme", 1, "reports"))[:3] == ("", left, (3 - left) * 20.0)
            assert (await gate.take("acme", 1, "reports")).refused == "burst"
            assert (await gate.take("acme", 1))[:2] == ("", 19)  # calls are counted apart
            assert (await gate.take("beta", 1, "reports")).burst_left == 2
            clock.ms += 20_000
            assert (await gate.take("acme", 1, "reports"))[:2] == ("", 0)
            await gate.close()

    asyncio.run(run())


def test_an_empty_bucket_refuses_and_fills_with_time(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        assert (await gate.take("acme", 20)).refused == ""
        refused = await gate.take("acme", 1)
        assert refused[:4] == ("burst", 0, 2.0, 80)  # the refused call is not counted
        clock.ms += 99
        assert (await gate.take("acme", 1)).refused == "burst"
        clock.ms += 1
        assert (await gate.take("acme", 1))[:2] == ("", 0)
        clock.ms += 3_600_000
        assert (await gate.take("acme", 1)).burst_left == 19  # never more than the burst

    run(test)


def test_the_day_refuses_until_the_next_one(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        for _ in range(5):
            assert (await gate.take("acme", 20)).refused == ""
            clock.ms += 2_000
        refused = await gate.take("acme", 1)
        assert refused[:4] == ("day", 20, 0.0, 0)
        assert refused.day_reset_s == 15 * 3600 - 10
        clock.ms += 15 * 3_600_000 - 10_001
        assert (await gate.take("acme", 1)).refused == "day"
        clock.ms += 1
        assert (await gate.take("acme", 1))[:4] == ("", 19, 0.1, 99)

    run(test)


def test_a_batch_larger_than_the_bucket_takes_all_of_it(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        assert (await gate.take("acme", 50))[:4] == ("", 0, 2.0, 50)
        clock.ms += 1_900
        assert (await gate.take("acme", 50)).refused == "burst"
        clock.ms += 100
        assert (await gate.take("acme", 50))[:4] == ("", 0, 2.0, 0)

    run(test)


def test_a_clock_that_goes_back_neither_fills_the_bucket_nor_begins_a_day(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        await gate.take("acme", 20)
        clock.ms -= 86_400_000
        assert (await gate.take("acme", 1))[:4] == ("burst", 0, 2.0, 80)
        clock.ms += 86_400_000 + 100
        assert (await gate.take("acme", 1))[:4] == ("", 0, 2.0, 79)

    run(test)


def test_calls_at_once_never_take_more_than_there_is(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        answers: list[Taken] = await asyncio.gather(*(gate.take("acme", 1) for _ in range(50)))
        assert sorted(a.refused for a in answers) == [""] * 20 + ["burst"] * 30

    run(test)


def test_a_nonce_is_new_once_for_a_key_and_its_time(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        assert await gate.first_use("k1", "n" * 16, 600)
        assert not await gate.first_use("k1", "n" * 16, 600)
        assert await gate.first_use("k2", "n" * 16, 600)
        assert await gate.first_use("k1", "m" * 64, 600)
        answers = await asyncio.gather(*(gate.first_use("k1", "o" * 16, 600) for _ in range(20)))
        assert answers.count(True) == 1

    run(test)


def test_outcomes_are_at_hand(run: Run) -> None:
    async def test(gate: Any, clock: Clock) -> None:
        document = {"id": "0" * 32, "amount": 10**15, "reason": None, "metadata": {"名": "值"}}
        assert await gate.outcome(b"\1" * 16) is None
        await gate.keep_outcomes([(b"\1" * 16, document)])
        assert await gate.outcome(b"\1" * 16) == document
        assert await gate.outcome(b"\2" * 16) is None

    run(test)


def test_what_is_kept_in_memory_ends_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        clock = Clock()
        gate = LocalGate(LIMITS, 60, clock)
        await gate.keep_outcomes([(b"1", {"a": 1})])
        assert await gate.first_use("k", "n", 600)
        clock.ms += 599_999
        assert await gate.outcome(b"1") is None
        assert not await gate.first_use("k", "n", 600)
        clock.ms += 1
        assert await gate.first_use("k", "n", 600)
        monkeypatch.setattr(gates, "NONCES_MAX", 10)
        monkeypatch.setattr(gates, "OUTCOMES_MAX", 10)
        for i in range(50):
            assert await gate.first_use("k", f"n{i}", 600)
            await gate.keep_outcomes([(bytes([i]), {"i": i})])
        assert len(gate._nonces) <= 10
        assert len(gate._outcomes) <= 10
        assert not await gate.first_use("k", "n49", 600)

    asyncio.run(test())


def test_outcomes_of_a_batch_are_one_look(server: Server) -> None:
    """A thousand at once kept each other waiting until Redis seemed to be away, and limits began anew in memory."""

    async def main() -> None:
        gate = RedisGate(RedisConfig(server.url, f"t{uuid.uuid4().hex[:8]}"), LIMITS, 60, timeout_s=5.0)
        ids = [bytes([i // 256, i % 256]) * 8 for i in range(1_000)]
        await gate.keep_outcomes([(cid, {"i": i}) for i, cid in enumerate(ids) if i % 2])
        looks: list[int] = []
        execute = gate._redis.execute_command

        async def counted(*words: Any) -> Any:
            looks.append(len(words) - 1)
            return await execute(*words)

        gate._redis.execute_command = counted
        found = await asyncio.gather(*(gate.outcome(cid) for cid in [*ids, ids[1]]))
        assert found == [{"i": i} if i % 2 else None for i in range(1_000)] + [{"i": 1}]
        assert looks == [250] * 4
        waits = asyncio.create_task(gate.outcome(ids[3]))
        beside = asyncio.create_task(gate.outcome(ids[3]))
        await asyncio.sleep(0)
        waits.cancel()  # whoever gives up does not take it from the others
        assert await beside == {"i": 3}
        await gate.close()

    asyncio.run(main())


def test_calls_that_wait_for_each_other_do_not_wait_for_redis(server: Server) -> None:
    """The time in which Redis must answer begins when it is asked: a flood of calls would make it seem away, and each
    gateway would give the tree another bucket and another day."""

    async def main() -> None:
        gate = redis_gate(server, Clock())
        now = most = 0
        execute = gate._redis.execute_command

        async def counted(*words: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            try:
                return await execute(*words)
            finally:
                now -= 1

        gate._redis.execute_command = counted
        taken = await asyncio.gather(*(gate.take("acme", 1) for _ in range(500)))
        assert (sum(not t.refused for t in taken), sum(t.local for t in taken)) == (20, 0)
        assert 1 < most <= 32
        await gate.close()

    asyncio.run(main())


def test_outcomes_of_topics_that_were_made_again_are_nobodys(server: Server) -> None:
    """Redis outlives them: a key that the new log has never had would be answered as settled, and not be published."""

    async def main() -> None:
        config = RedisConfig(server.url, f"t{uuid.uuid4().hex[:8]}")
        before, after, beside = (
            RedisGate(config, LIMITS, 60, timeout_s=5.0, now_ms=Clock(), log=log) for log in ("a+b", "c+d", "a+b")
        )
        await before.keep_outcomes([(b"\1" * 16, {"status": "settled"})])
        assert await after.outcome(b"\1" * 16) is None
        assert await beside.outcome(b"\1" * 16) == {"status": "settled"}
        left = [(await gate.take("acme", 5)).burst_left for gate in (before, after)]
        assert left == [15, 10]  # calls are counted as before
        for gate in (before, after, beside):
            await gate.close()

    asyncio.run(main())


def test_redis_forgets_nonces_and_outcomes_by_itself(server: Server) -> None:
    async def test() -> None:
        gate = redis_gate(server, None, world="ttl")
        await gate.first_use("k", "n" * 16, 605)
        await gate.keep_outcomes([(b"\1" * 16, {})])
        await gate.take("acme", 1)
        await gate.close()

    asyncio.run(test())
    with redis.Redis(port=server.port, decode_responses=True) as client:
        left = {name: client.ttl(name) for name in client.keys("ttl:*")}
    assert set(left) == {"ttl:nonce:k:" + "n" * 16, f"ttl:outcome:{'01' * 16}", "ttl:calls:acme"}
    assert 590 < left["ttl:nonce:k:" + "n" * 16] <= 605
    assert 50 < left[f"ttl:outcome:{'01' * 16}"] <= 60
    assert 86_400 < left["ttl:calls:acme"] <= 172_800


def test_gateways_share_one_bucket_by_the_servers_clock(server: Server) -> None:
    async def test() -> None:
        slow = CallLimits(rate_per_s=0.001, burst=20, per_day=100)
        one, two = (redis_gate(server, None, slow, world="shared") for _ in range(2))
        answers = [await g.take("acme", 1) for _ in range(15) for g in (one, two)]
        assert [a.refused for a in answers].count("") == 20
        assert abs(answers[0].day_reset_s - (86_400 - time.time() % 86_400)) < 60
        assert await one.first_use("k", "n" * 16, 600)
        assert not await two.first_use("k", "n" * 16, 600)
        await one.close()
        await two.close()

    asyncio.run(test())


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(-2_000, 40_000_000)), min_size=1, max_size=25),
    st.sampled_from([LIMITS, CallLimits(0.7, 3, 11), CallLimits(1000.0, 5000, 50_000_000)]),
)
def test_script_and_memory_take_the_same(server: Server, calls: list[tuple[int, int]], limits: CallLimits) -> None:
    async def test() -> None:
        clock = Clock()
        one, two = redis_gate(server, clock, limits), LocalGate(limits, 60, clock)
        for n, later in calls:
            a, b = await one.take("acme", n), await two.take("acme", n)
            assert a[:5] == b[:5]
            clock.ms += later
        await one.close()

    asyncio.run(test())


def test_redis_away_goes_on_in_memory_and_comes_back(tmp_path: Path) -> None:
    server = Server(tmp_path)

    async def test() -> None:
        gate: Any = redis_gate(server, None, CallLimits(0.001, 5, 100))
        assert not (await gate.take("acme", 5)).local
        assert await gate.first_use("k", "before" * 3, 600)
        await gate.keep_outcomes([(b"\1" * 16, {"a": 1})])
        server.stop()
        answers = [await gate.take("acme", 1) for _ in range(7)]
        assert all(a.local for a in answers)
        assert gate.local
        assert [a.refused for a in answers] == [""] * 5 + ["burst"] * 2  # the same numbers, from full
        assert not await gate.first_use("k", "before" * 3, 600)  # this process remembers what Redis knew
        assert await gate.first_use("k", "during" * 3, 600)
        assert not await gate.first_use("k", "during" * 3, 600)
        assert await gate.outcome(b"\1" * 16) is None
        await gate.keep_outcomes([(b"\2" * 16, {"a": 2})])  # nothing is raised
        server.start()
        deadline = time.monotonic() + 180
        while (await gate.take("beta", 1)).local:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert not gate.local
        assert await gate.outcome(b"\2" * 16) is None
        await gate.close()

    try:
        asyncio.run(test())
    finally:
        server.stop()


def test_no_connection_of_before_fails_a_call_when_redis_is_back(tmp_path: Path) -> None:
    server = Server(tmp_path)

    async def test() -> None:
        gate: Any = redis_gate(server, None, CallLimits(1000.0, 5000, 100_000))
        await asyncio.gather(*(gate.take("acme", 1) for _ in range(100)))  # every connection of the pool
        server.stop()
        assert (await gate.take("acme", 1)).local
        server.start()
        deadline = time.monotonic() + 180
        while (await gate.take("acme", 1)).local:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(gate.take("acme", 1) for _ in range(100)))
        assert not any(a.local for a in answers)
        await gate.close()

    try:
        asyncio.run(test())
    finally:
        server.stop()


def test_a_redis_that_hangs_is_waited_for_once(server: Server) -> None:
    async def test() -> None:
        config = RedisConfig(server.url, "hangs")
        gate = RedisGate(config, LIMITS, 60, timeout_s=0.1, away_s=3600.0)
        assert not (await gate.take("acme", 1)).local
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            assert (await gate.take("acme", 1)).local
            # None of these may ask again: at a tenth of a second each they would need more than the test has.
            for _ in range(5_000):
                assert (await gate.take("acme", 1)).local
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await gate.close()

    asyncio.run(test())


def test_many_calls_at_once_are_no_reason_to_think_redis_away(server: Server) -> None:
    async def test() -> None:
        gate = redis_gate(server, None, CallLimits(1000.0, 5000, 10_000))
        answers = await asyncio.gather(*(gate.take("acme", 1) for _ in range(500)))
        assert not any(a.local for a in answers)
        await gate.close()

    asyncio.run(test())


def test_a_script_that_redis_forgot_is_given_again(server: Server) -> None:
    async def test() -> None:
        gate = redis_gate(server, Clock())
        await gate.take("acme", 1)
        with redis.Redis(port=server.port) as client:
            client.script_flush()
        assert (await gate.take("acme", 1))[:2] == ("", 18)
        await gate.close()

    asyncio.run(test())
