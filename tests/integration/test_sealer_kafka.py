"""The sealer on a real broker, killed at each of its steps and paused into a zombie: no gap, no overlap, no fork."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from clearline.audit.journal import JournalWalk
from clearline.audit.live import LiveLog
from clearline.audit.seals import SealsCheck
from clearline.audit.verdict import Findings
from clearline.commands.receipt import _stored, make
from clearline.receipts import Wanted, find, to_text
from clearline.stack import CHECKOUT
from schemas.errors import BadInputError, DifferenceFoundError
from schemas.failpoints import SEALER
from schemas.merkle import leaf, root
from schemas.records import Seal
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from streams.reader import read_to_end
from streams.topics import topic_ids
from tests.integration.conftest import World
from tests.integration.test_sinks_kafka import abort, died, finish
from tests.journals import Line, Maker
from tests.sealer_role import SealerRole
from tests.sink_servers import ClickHouseServer, wait_for

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


def test_receipts_and_the_auditor_on_a_log_that_is_sealed(world: World, role: SealerRole, tmp_path: Path) -> None:
    """ClickHouse is not there: the record is found in the journal. The partner's script runs as a partner runs it."""
    lines = Maker(44, partitions=4, gap=0, step_ms=1500).lines(500, world.codec)
    send(world, lines[:-5])
    process = role.start()
    wait_for("everything to be sealed", lambda: all_sealed(role, process.pid))
    finish(process)
    send(world, lines[-5:])
    settled = [x for x in lines[:-5] if x.record.outcome == "settled"]
    for x in (settled[0], settled[len(settled) // 2], settled[-1]):
        r = x.record
        receipt = make(world.settings, Wanted.of(r.partner_id, r.idempotency_key, ""))
        assert receipt == make(world.settings, Wanted.of("", "", r.command_id.hex()))
        assert (receipt["partition"], receipt["sequence"], receipt["record"]) == (
            x.partition,
            r.sequence,
            x.value[5:].hex(),
        )
        file = tmp_path / "receipt.json"
        file.write_text(to_text(receipt), encoding="utf-8")
        command = [sys.executable, "-I", str(CHECKOUT / "docs" / "check_receipt.py"), str(file)]
        done = subprocess.run(
            [*command, "--root", receipt["seal"]["root"]], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        assert f"{r.partner_id} {r.idempotency_key}: settled" in done.stdout
    with pytest.raises(BadInputError, match="no outcome of acme o-none"):
        make(world.settings, Wanted.of("acme", "o-none", ""))
    late = lines[-1].record
    with pytest.raises(DifferenceFoundError, match="not sealed yet"):
        make(world.settings, Wanted(late.command_id))
    findings, log, walked = Findings(), LiveLog(world.kafka, world.topics, 4), 0
    for p in range(4):
        seals = SealsCheck(p, log, world.codec.decode, findings["seals"])
        walk = JournalWalk(p, log.read("journal", p, *log.span("journal", p)), world.codec.decode, findings, seals)
        walked += len(list(walk))
        seals.close(None)
    assert walked == 500
    assert (findings["seals"].differences, findings["chain"].differences) == ([], [])
    assert (findings["seals"].figures["records"], findings["seals"].figures["not_sealed_yet"]) == (495, 5)


def store(config: ClickHouseConfig, topic: str, lines: Sequence[Line]) -> None:
    """Rows as the sink has them, as far as a lookup asks."""
    database = Database(config)
    try:
        for x in lines:
            r = x.record
            database.rows(
                "INSERT INTO outcomes (topic, partition, offset, sequence, outcome, reason, command, partner_id, "
                "idempotency_key, command_id, booked_at) SELECT %(topic)s, %(p)s, %(o)s, %(n)s, %(outcome)s, %(reason)s, "
                "%(command)s, %(partner)s, %(key)s, unhex(%(id)s), fromUnixTimestamp64Milli(toInt64(%(at)s))",
                {"topic": topic, "p": x.partition, "o": x.offset, "n": r.sequence, "outcome": r.outcome, "at": r.booked_at,
                 "reason": r.reason, "command": r.command, "partner": r.partner_id, "key": r.idempotency_key,
                 "id": r.command_id.hex()},
            )  # fmt: skip
    finally:
        database.close()


def test_a_record_is_looked_up_in_clickhouse_and_what_it_lacks_in_the_journal(world: World, tmp_path: Path) -> None:
    lines = Maker(45, partitions=4, gap=0, step_ms=1500).lines(300, world.codec)
    send(world, lines)
    house = ClickHouseServer(tmp_path)
    house.start()
    try:
        config = house.config(f"clearline_{world.topics.world}")
        migrate.apply(config)
        journal = world.topics.journal
        stored, found_later = lines[100:140], [x for x in lines[200:] if x.record.outcome == "settled"][:3]
        store(config, f"{journal}@{topic_ids(world.kafka, [journal])[journal]}", stored)
        store(config, f"{journal}@another", lines[250:260])
        at = {"host": "127.0.0.1", "port": house.port, "database": config.database}
        settings = world.settings.model_copy(update={"clickhouse": world.settings.clickhouse.model_copy(update=at)})
        log = LiveLog(world.kafka, world.topics, 4)
        for x in [x for x in stored if x.record.outcome == "settled"][:3] + found_later:
            r = x.record
            rows, starts = _stored(settings, Wanted(r.command_id))
            assert len(rows) == (x in stored)
            assert starts == {p: max(y.offset for y in stored if y.partition == p) + 1 for p in range(4)}
            wanted = Wanted.of(r.partner_id, r.idempotency_key, "")
            assert _stored(settings, wanted) == (rows, starts)
            (place,) = find(log, world.codec.decode, wanted, rows, starts)
            assert place == (x.partition, x.offset, r.sequence, r.outcome, r.reason, r.command)
    finally:
        house.stop()


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
