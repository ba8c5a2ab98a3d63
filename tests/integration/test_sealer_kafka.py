"""The sealer on a real broker, killed at each of its steps and paused into a zombie: no gap, no overlap, no fork."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.failpoints import SEALER
from schemas.merkle import leaf, root
from schemas.records import Seal
from streams.reader import read_to_end
from tests.integration.conftest import World
from tests.integration.test_sinks_kafka import abort, died, finish
from tests.journals import Line, Maker
from tests.sealer_role import SealerRole
from tests.sink_servers import wait_for

pytestmark = pytest.mark.stack


@pytest.fixture
def role(world: World, tmp_path: Path) -> SealerRole:
    s = world.settings
    return SealerRole(str(s.kafka.bootstrap), str(s.registry.url), world.topics.world, tmp_path / "ready.json")


def send(world: World, lines: Sequence[Line]) -> None:
    """Produces journal records as settlement does: the time of each is when it was booked."""
    p = Producer(world.kafka.producer())
    for x in lines:
        p.produce(world.topics.journal, x.value, None, x.partition, timestamp=x.record.booked_at)
        p.poll(0)
    assert p.flush(30) == 0


def report_of(role: SealerRole) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(role.ready_file.read_bytes()) if role.ready_file.exists() else {}
    return found


def all_sealed(role: SealerRole, pid: int | None) -> bool:
    report = report_of(role)
    return report.get("pid") == pid and report["ready"] and report["lag"] == 0 and report["unsealed"] == 0


def sealed(world: World) -> int:
    """How many records are under committed seals."""
    return sum(s[-1][0].last_sequence for s in seals_of(world).values() if s)


def seals_of(world: World) -> dict[int, list[tuple[Seal, bytes]]]:
    """Every committed seal by partition, with its Avro body."""
    out: dict[int, list[tuple[Seal, bytes]]] = {p: [] for p in range(4)}
    for r in read_to_end(world.kafka, world.topics.seals):
        assert r.value is not None
        out[r.partition].append((world.codec.decode(r.value), r.value[5:]))
    return out


def check(world: World, lines: Sequence[Line]) -> list[Seal]:
    """Every record is under exactly one seal, each seal is what its records say, and names the one before it."""
    out = []
    for p, found in seals_of(world).items():
        values = [x.value[5:] for x in lines if x.partition == p]
        times = [x.record.booked_at for x in lines if x.partition == p]
        sequence, previous = 0, bytes(32)
        for seal, body in found:
            a, b = seal.first_sequence - 1, seal.last_sequence
            assert (seal.partition, a, seal.previous) == (p, sequence, previous)
            assert seal.root == root([leaf(v) for v in values[a:b]])
            assert (seal.chain, seal.first_booked_at, seal.last_booked_at) == (
                values[b - 1][-32:],
                times[a],
                times[b - 1],
            )
            sequence, previous = b, sha256(body).digest()
            out.append(seal)
        assert sequence == len(values)
    return out


def test_killed_at_every_step_it_seals_everything_once(world: World, role: SealerRole) -> None:
    maker = Maker(41, partitions=4, gap=0, step_ms=1500)
    lines = maker.lines(900, world.codec)
    send(world, lines[:300])
    abort(world, world.topics.journal, lines[0].partition, b"never seen")
    sent = 300
    for hit in (1, 3):
        for point in SEALER:
            process = role.start(f"{point}=kill@{1 if point == 'sealer.after_fence' else hit}")
            assert died(process) == -signal.SIGKILL, point
            send(world, lines[sent : sent + 60])
            sent += 60
    closing = maker._line(world.codec, 0, maker._record(0, "bank", "applied", command="CloseDay"))
    lines.append(closing)
    send(world, lines[sent:])
    process = role.start()
    wait_for("everything to be sealed", lambda: all_sealed(role, process.pid))
    finish(process)
    found = check(world, lines)
    assert {s.why for s in found} == {"minute", "day_close"}
    assert [(s.partition, s.last_sequence) for s in found if s.why == "day_close"] == [(0, closing.record.sequence)]
    assert len(found) > 20


def test_a_sealer_that_wakes_up_behind_another_writes_nothing_more(world: World, role: SealerRole) -> None:
    lines = Maker(42, partitions=4, gap=0, step_ms=1500).lines(600, world.codec)
    send(world, lines[:300])
    zombie = role.start("sealer.after_produce=stop@2")
    assert zombie.pid is not None
    wait_for("the first to stop", lambda: Path(f"/proc/{zombie.pid}/stat").read_text().split()[2] == "T")
    process = role.start()
    wait_for("the second to seal everything", lambda: all_sealed(role, process.pid))
    send(world, lines[300:])
    os.kill(zombie.pid, signal.SIGCONT)
    assert died(zombie) not in (0, None), "it was fenced, and ends"
    wait_for("the second to go on", lambda: all_sealed(role, process.pid) and sealed(world) == 600)
    finish(process)
    check(world, lines)


def test_a_partition_whose_journal_is_not_what_was_sealed_is_left_out_alone(world: World, role: SealerRole) -> None:
    lines = Maker(43, partitions=4, gap=0, step_ms=1500).lines(400, world.codec)
    send(world, lines[:200])
    process = role.start()
    wait_for("everything to be sealed", lambda: all_sealed(role, process.pid))
    broken = next(x for x in lines[200:] if x.partition == lines[200].partition)
    send(world, [broken._replace(value=broken.value[:-1] + bytes([broken.value[-1] ^ 1])), *lines[201:]])
    wait_for("it to say so", lambda: str(broken.partition) in report_of(role)["stopped"])
    kept = [x for i, x in enumerate(lines) if x.partition != broken.partition or i < 200]
    wait_for("the others to be sealed", lambda: sealed(world) == len(kept))
    finish(process)
    check(world, kept)
