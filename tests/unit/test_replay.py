"""Replays of logs in memory: the same hash again, what a rule changes and what follows from it, kills, and retention."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from clearline.audit.continuous.difference import Difference, Finding, Verdict
from clearline.product_file import parse_product
from clearline.replay import bases, diff, live, run
from clearline.replay.plan import Plan, PlanChangedError, check_plan, make_plan, read_plan, write_plan
from clearline.replay.rebuild import wrong_in
from clearline.replay.rules import Rule, read_rules
from clearline.replay.run import CancelledError, Run
from clearline.replay.selection import Selection, bound_of
from clearline.replay.shadow import Outcomes, Shadow
from schemas import failpoints
from schemas.codec import Codec, schema_text
from schemas.errors import BadInputError, InvariantError
from schemas.failpoints import FailPointError
from schemas.identity import partition_of
from schemas.records import RECORDS
from streams.reader import LogRecord
from tests.replay_world import CODEC, MemoryWorld, again, bank_of, pay, wallet_document

ACME, ZETA = "acme", "zeta"
EVERYTHING = Selection()
assert partition_of(ACME, 2) != partition_of(ZETA, 2)


def another(value: bytes) -> bytes:
    """The same bytes but for the last one."""
    return value[:-1] + bytes([value[-1] ^ 1])


def rule(free: int, fee: int) -> Rule:
    """Transfers above `free` cost `fee`."""
    text = parse_product(Path("new.yaml"), wallet_document(free, fee).encode()).text
    return Rule("wallet", 1, text, 1)


def plan_for(
    world: MemoryWorld, rules: Sequence[Rule] = (), selection: Selection = EVERYTHING, books: Path | None = None
) -> Plan:
    eyes = world.eyes()
    places = selection.places(world.partitions)
    marks = live.marks(world, CODEC, CODEC.decode, places)

    def offsets_at(since: Any) -> dict[int, int]:
        ends = {p: world.span("submitted", p)[1] for p in since}
        return {
            p: next((r.offset for r in world.topics["submitted", p] if r.timestamp_ms >= ms), ends[p])
            for p, ms in since.items()
        }

    kept = bases.bases_of(books) if books else {}
    return make_plan("test", selection, rules, world, eyes.ground, marks, kept, offsets_at, {"t": "id"}, rate=1000.0)


def replayed(
    world: MemoryWorld, root: Path, plan: Plan, *, books: Path | None = None, checkpoint_s: float = 1000.0
) -> tuple[dict[str, Any], Run]:
    one = run.begin(root, plan)
    marks = live.marks(world, CODEC, CODEC.decode, [t.partition for t in plan.tasks])
    return run.execute(one, world.eyes(), marks, books=books, checkpoint_s=checkpoint_s), one


def changes(one: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(one.diff_path.read_bytes())["changes"]
    return found


@pytest.fixture
def world() -> MemoryWorld:
    """Two partners in two partitions, 40 transfers each of 100 to 139, some repeated, some refused, some dead."""
    w = MemoryWorld(2)
    bank_of(w, {ACME: 100_000, ZETA: 100_000})
    for i in range(40):
        one = pay(f"{ACME}:purse", f"{ACME}:box", 100 + i)
        w.give(one, pay(f"{ZETA}:purse", f"{ZETA}:box", 100 + i))
        if i % 10 == 0:
            w.give(one, again(one, amount=1), pay(f"{ACME}:box", f"{ACME}:purse", 10**7), b"nonsense")
    return w


# ---- history comes out again ---------------------------------------------------------------------------------------


def test_a_whole_log_comes_to_the_same_chain_state_and_hash_twice(world: MemoryWorld, tmp_path: Path) -> None:
    first, one = replayed(world, tmp_path, plan_for(world))
    second, other = replayed(world, tmp_path, plan_for(world))
    assert not diff.differs(first) and one.found["state_equal"] == {"0": True, "1": True}
    for p in range(2):
        assert first["partitions"][str(p)]["shadow_chain"] == world.records(p)[-1].chain.hex()
    assert first["hash"] == second["hash"] and one.diff_path.read_bytes() == other.diff_path.read_bytes()
    assert one.found["live_untouched"] and one.found["live_before"] == other.found["live_after"]
    received = sum(len(world.topics["submitted", p]) for p in range(2))
    assert first["commands"] == first["compared"] == received == plan_for(world).commands


def test_traffic_that_goes_on_does_not_change_what_is_compared(world: MemoryWorld, tmp_path: Path) -> None:
    plan = plan_for(world)
    one = run.begin(tmp_path, plan)
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    quiet, _ = replayed(world, tmp_path, plan)
    original = world.read
    more = itertools.count()

    def with_traffic(topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        if next(more) < 3:
            world.give(pay(f"{ACME}:purse", f"{ACME}:box", 7))
            world.compact()
        return original(topic, partition, start, end)

    world.read = with_traffic  # type: ignore[method-assign]
    busy = run.execute(one, world.eyes(), marks)
    assert busy == quiet and one.found["live_untouched"] and all(one.found["state_equal"].values())


def test_a_changed_live_row_or_record_is_seen(world: MemoryWorld, tmp_path: Path) -> None:
    plan = plan_for(world)
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    rows = world.topics["state", 0]
    last = max(i for i, r in enumerate(rows) if r.key == b"a:acme:purse")
    kept = rows[last]
    rows[last] = kept._replace(value=next(r.value for r in rows if r.key == kept.key))
    one = run.begin(tmp_path, plan)
    run.execute(one, world.eyes(), marks)
    assert not one.found["live_untouched"]
    rows[last] = kept
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    place = world.topics["journal", 1][-1]
    original = world.read

    def another_record(topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        """The journal's last record is another one once the walk is through."""
        found = original(topic, partition, start, end)
        changed = topic == "journal" and partition == 1 and start == place.offset
        return (r._replace(value=another(r.value or b"")) for r in found) if changed else found

    world.read = another_record  # type: ignore[method-assign]
    with pytest.raises(InvariantError, match="another record"):
        run.execute(run.begin(tmp_path, plan), world.eyes(), marks)


def test_an_outcome_that_was_never_this_one_is_a_drift(world: MemoryWorld, tmp_path: Path) -> None:
    journal = world.topics["journal", 0]
    at = next(i for i, r in enumerate(journal) if CODEC.decode(r.value).outcome == "settled")
    del journal[at]
    found, one = replayed(world, tmp_path, plan_for(world))
    assert found["drift"] == 1 and diff.differs(found)
    assert [(c["why"], c["old"]["outcome"], c["new"]["outcome"]) for c in changes(one)] == [
        ("drift", "dead", "settled")
    ]
    assert found["partitions"]["0"]["chain_equal"] is True, "the records after it are as they were"


def test_what_died_of_a_schema_of_its_time_stays_dead_when_it_was_registered_and_put_back(tmp_path: Path) -> None:
    w = MemoryWorld(2, batch=2)
    bank_of(w, {ACME: 100_000, ZETA: 100_000})
    one, learnt = pay(f"{ACME}:purse", f"{ACME}:box", 100), Codec({name: i + 1 for i, name in enumerate(RECORDS)})
    known = CODEC.encode(one)
    unknown = known[:1] + (9_999).to_bytes(4, "big") + known[5:]
    place, kafka_key = partition_of(ACME, 2), ACME.encode()
    w.append("submitted", place, kafka_key, unknown)
    w.append("submitted", place, kafka_key, unknown)
    w.give(*(pay(f"{ACME}:purse", f"{ACME}:box", n) for n in range(1, 9)), one)
    learnt.add_writer_schema(9_999, schema_text("Transaction"))
    one_run, marks = run.begin(tmp_path, plan_for(w)), live.marks(w, CODEC, CODEC.decode, range(2))
    found = run.execute(one_run, w.eyes(learnt), marks)
    assert not diff.differs(found) and one_run.found["state_equal"] == {"0": True, "1": True}
    assert found["partitions"][str(place)]["left_dead"] == 2
    assert any("2 commands that died" in line for line in diff.words(found))


@pytest.mark.parametrize("verdict", Verdict)
def test_a_rebuilt_part_is_equal_only_when_it_was_compared(verdict: Verdict) -> None:
    said = wrong_in(Finding("redis", verdict))
    assert (said == []) == (verdict in (Verdict.EQUAL, Verdict.BEHIND))
    assert wrong_in(Finding("redis", Verdict.DIFFERS, [Difference("redis", 1, "other")], 1)) == ["partition 1: other"]


# ---- rules ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_changes_k_transactions_makes_a_diff_of_exactly_these(world: MemoryWorld, tmp_path: Path) -> None:
    found, one = replayed(world, tmp_path, plan_for(world, [rule(free=129, fee=3)]))
    amounts = [c["old"]["postings"][0]["amount"] for c in changes(one)]
    assert sorted(amounts) == sorted([*range(130, 140)] * 2), "those above 129, in both partitions, and no other"
    assert (found["transactions_changed"], found["direct"], found["consequent"]) == (20, 20, 0)
    deltas = {d["account_id"]: (d["debits"], d["credits"]) for d in found["deltas"]}
    assert deltas == {"acme:purse": (30, 0), "zeta:purse": (30, 0), "bank:fees:CNY": (0, 60)}
    assert found["drift"] == 0 and all(p["chain_equal"] for p in found["partitions"].values())
    assert found["elsewhere"] == [] and one.found["live_untouched"]


def test_a_rule_of_the_same_document_changes_nothing(world: MemoryWorld, tmp_path: Path) -> None:
    found, _ = replayed(world, tmp_path, plan_for(world, [rule(free=10**9, fee=0)]))
    assert not diff.differs(found)


def test_what_follows_from_a_change_is_told_apart_from_it(tmp_path: Path) -> None:
    w = MemoryWorld(2)
    bank_of(w, {ACME: 1_000})
    w.give(*(pay("acme:purse", "acme:box", amount) for amount in (500, 300, 200, 50)))
    found, one = replayed(w, tmp_path, plan_for(w, [rule(free=400, fee=10)]))
    said = [(c["old"]["outcome"], c["new"]["outcome"], c["new"].get("reason"), c["why"]) for c in changes(one)]
    assert said == [
        ("settled", "settled", None, "direct"),  # 500 costs 10
        ("settled", "rejected", "insufficient_funds", "consequent"),  # 200 of 190
        ("rejected", "settled", None, "consequent"),  # 50 of 190
    ]
    assert (found["direct"], found["consequent"]) == (1, 2)


def test_a_transaction_refused_by_the_rule_alone_is_direct(tmp_path: Path) -> None:
    w = MemoryWorld(2)
    bank_of(w, {ACME: 1_000})
    w.give(pay("acme:purse", "acme:box", 995))
    _, one = replayed(w, tmp_path, plan_for(w, [rule(free=400, fee=10)]))
    assert [(c["new"]["reason"], c["why"]) for c in changes(one)] == [("insufficient_funds", "direct")]


def test_a_document_of_an_unknown_version_stands_in_for_the_newest(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(wallet_document(100, 1, version=9))
    (made,) = read_rules([file], {"wallet": [1, 2]})
    assert (made.version, made.given) == (2, 9) and json.loads(made.document)["version"] == 2
    with pytest.raises(BadInputError, match="never published"):
        read_rules([file], {"loan": [1]})
    with pytest.raises(BadInputError, match="stands twice"):
        read_rules([file, file], {"wallet": [1]})


def test_a_rule_that_changes_a_crossing_says_that_its_end_is_not_known(tmp_path: Path) -> None:
    w = MemoryWorld(2)
    bank_of(w, {ACME: 1_000, ZETA: 1_000})
    w.give(
        pay("acme:purse", "zeta:box", 300), pay("acme:purse", "zeta:box", 995 - 300), pay("zeta:purse", "zeta:box", 5)
    )
    kept, _ = replayed(w, tmp_path, plan_for(w))
    assert not diff.differs(kept), "steps between partitions are commands of the log like all others"
    found, one = replayed(w, tmp_path, plan_for(w, [rule(free=400, fee=10)]))
    second = next(r for r in w.records(partition_of(ACME, 2)) if r.outcome == "applied" and r.command == "Transaction"
                  and r.pending[0].change == 695)  # fmt: skip
    assert found["elsewhere"] == [second.command_id.hex()]
    assert {c["id"] for c in changes(one)} == {second.command_id.hex()}
    transactions = [c for c in changes(one) if c["kind"] == "transaction"]
    assert {c["why"] for c in transactions} == {"direct"} and found["transactions_changed"] == 1


def test_a_crossing_of_which_only_the_fee_at_home_changes_is_known_to_its_end(tmp_path: Path) -> None:
    w = MemoryWorld(2)
    bank_of(w, {ACME: 1_000, ZETA: 0 + 1})
    w.give(pay("acme:purse", "zeta:box", 300))
    found, one = replayed(w, tmp_path, plan_for(w, [rule(free=200, fee=7)]))
    assert found["elsewhere"] == [] and found["transactions_changed"] == 1 and found["direct"] == 1
    deltas = {d["account_id"]: (d["debits"], d["credits"]) for d in found["deltas"]}
    assert deltas == {"acme:purse": (7, 0), "bank:fees:CNY": (0, 7)}
    assert [c["new"]["outcome"] for c in changes(one)] == ["applied", "settled"]


@pytest.mark.parametrize("rules", [(), (rule(free=129, fee=3),)])
def test_records_of_another_version_of_a_schema_are_learnt_and_compared_by_content(
    world: MemoryWorld, tmp_path: Path, rules: tuple[Rule, ...]
) -> None:
    """A registry gives a changed schema another id; here the text is the same, so that even the chain can be."""
    others = {"JournalRecord": 901, "PublishProduct": 902}
    for topic, name in (("journal", "JournalRecord"), ("submitted", "PublishProduct")):
        for p in range(2):
            records = world.topics[topic, p]
            header = b"\0" + others[name].to_bytes(4, "big")
            for i, r in enumerate(records[:30]):
                if r.value and CODEC.name_of(r.value) == name:
                    records[i] = r._replace(value=header + r.value[5:])
    codec, asked = Codec({name: i + 1 for i, name in enumerate(RECORDS)}), set[int]()

    def learn(ids: set[int]) -> set[int]:
        asked.update(ids)
        for name, schema_id in others.items():
            if schema_id in ids:
                codec.add_writer_schema(schema_id, schema_text(name))
        return set()

    plan = plan_for(world, rules)
    one = run.begin(tmp_path, plan)
    found = run.execute(one, world.eyes(codec, learn), live.marks(world, CODEC, CODEC.decode, range(2)))
    assert asked == set(others.values()) and found["drift"] == 0
    assert found["transactions_changed"] == (20 if rules else 0)


# ---- selections ----------------------------------------------------------------------------------------------------


def test_a_selection_narrows_what_is_compared(world: MemoryWorld, tmp_path: Path) -> None:
    rules = [rule(free=129, fee=3)]
    plan = plan_for(world, rules, Selection(partner=ZETA))
    assert [t.partition for t in plan.tasks] == [partition_of(ZETA, 2)], "a partner's tree lies in one partition"
    found, one = replayed(world, tmp_path, plan)
    assert found["transactions_changed"] == 10 and {c["partner_id"] for c in changes(one)} == {ZETA}
    assert 0 < found["compared"] < found["commands"]
    found, _ = replayed(world, tmp_path, plan_for(world, rules, Selection(account="acme:box")))
    assert found["transactions_changed"] == 10
    found, _ = replayed(world, tmp_path, plan_for(world, rules, Selection(product="loan")))
    assert found["transactions_changed"] == 0 and not diff.differs(found)
    found, _ = replayed(world, tmp_path, plan_for(world, rules, Selection(partitions=(0,))))
    assert found["transactions_changed"] == 10


def test_a_stretch_is_named_by_time_or_offset(world: MemoryWorld, tmp_path: Path) -> None:
    rules = [rule(free=129, fee=3)]
    p = partition_of(ACME, 2)
    concerned = [r for r in world.records(p) if r.outcome == "settled" and r.postings[0].amount in range(130, 140)]
    third, last = concerned[2], concerned[-1]
    selection = Selection(partitions=(p,), since=str(third.source_offset), until=str(last.source_offset))
    found, one = replayed(world, tmp_path, plan_for(world, rules, selection))
    assert found["transactions_changed"] == 7 and changes(one)[0]["offset"] == third.source_offset
    assert found["commands"] < len(world.topics["submitted", p]), "what comes after the end is not read"
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(third.booked_at / 1000, UTC).isoformat()
    found, one = replayed(world, tmp_path, plan_for(world, rules, Selection(partitions=(p,), since=at)))
    assert found["transactions_changed"] == 8


@pytest.mark.parametrize("text", ["yesterday", "1:2:3", "a:1", "-4", "0:5,x"])
def test_a_bound_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="--from"):
        bound_of(text, "--from")


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(BadInputError, match="there are partitions 0 to 1"):
        Selection(partitions=(2,)).places(2)
    with pytest.raises(BadInputError, match="another partition"):
        Selection(partner=ACME, account="zeta:box").places(2)


# ---- kills and cancels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [(), (rule(free=129, fee=3),)])
def test_killed_anywhere_and_resumed_it_makes_the_same_diff(
    world: MemoryWorld, tmp_path: Path, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearline.replay.partition.BATCH_RECORDS_MAX", 9)
    plan = plan_for(world, rules)
    whole, one = replayed(world, tmp_path, plan)
    wanted = one.diff_path.read_bytes()
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    for point in failpoints.REPLAY:
        other = run.begin(tmp_path, plan)
        kills = 0
        for hit in itertools.cycle((1, 3, 2, 5)):
            failpoints.arm(f"{point}=raise@{hit}" if kills < 12 else "")
            try:
                again_ = run.execute(run.find(tmp_path, other.id), world.eyes(), marks, checkpoint_s=0.0)
                break
            except FailPointError:
                kills += 1
            finally:
                failpoints.arm("")
        assert kills, point
        assert again_ == whole and other.diff_path.read_bytes() == wanted, point


@pytest.mark.parametrize("rules", [(), (rule(free=129, fee=3),)])
def test_interrupted_within_a_batch_it_goes_on_from_the_checkpoint_before(
    world: MemoryWorld, tmp_path: Path, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearline.replay.partition.BATCH_RECORDS_MAX", 9)
    plan = plan_for(world, rules)
    _, whole = replayed(world, tmp_path, plan)
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    settle = Shadow.settle
    for calls in (3, 7, 10):
        left = [calls]

        def once(shadow: Shadow, records: Sequence[LogRecord], left: list[int] = left) -> Outcomes:
            found = settle(shadow, records)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return found

        one = run.begin(tmp_path, plan)
        monkeypatch.setattr(Shadow, "settle", once)
        with pytest.raises(KeyboardInterrupt):
            run.execute(one, world.eyes(), marks, checkpoint_s=0.0)
        run.execute(run.find(tmp_path, one.id), world.eyes(), marks)
        assert one.diff_path.read_bytes() == whole.diff_path.read_bytes()


def test_a_cancelled_replay_goes_on_where_it_was(
    world: MemoryWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearline.replay.partition.BATCH_RECORDS_MAX", 9)
    plan = plan_for(world, [rule(free=129, fee=3)])
    _, whole = replayed(world, tmp_path, plan)
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    one = run.begin(tmp_path, plan)
    run.ask_to_cancel(tmp_path, one.id)
    (one.folder / "cancel").unlink()  # what was asked before it began is of no account
    monkeypatch.setattr(run, "TELL_S", 0.0)
    with pytest.raises(CancelledError, match=f"resume {one.id}"):
        run.execute(one, world.eyes(), marks, lambda r: r.done > 30)
    assert run.find(tmp_path, one.id).state == run.CANCELLED and 30 < one.done < plan.commands
    assert live.hash_of(live.marks(world, CODEC, CODEC.decode, range(2)).values()) == live.hash_of(marks.values())
    run.execute(run.find(tmp_path, one.id), world.eyes(), marks)
    assert one.diff_path.read_bytes() == whole.diff_path.read_bytes()
    assert [r.state for r in run.runs(tmp_path)] == [run.DONE, run.DONE]
    run.drop(tmp_path, one.id)
    assert [r.id for r in run.runs(tmp_path)] == [whole.id]


def test_a_checkpoint_that_was_changed_is_not_gone_on_from(world: MemoryWorld, tmp_path: Path) -> None:
    one = run.begin(tmp_path, plan_for(world))
    marks = live.marks(world, CODEC, CODEC.decode, range(2))
    run.execute(one, world.eyes(), marks)
    file = one.folder / "checkpoint-1.bin"
    file.write_bytes(another(file.read_bytes()))
    with pytest.raises(InvariantError, match="is not what was written"):
        run.execute(one, world.eyes(), marks)


# ---- retention -----------------------------------------------------------------------------------------------------


def test_commands_that_are_gone_are_said_to_be_gone(world: MemoryWorld, tmp_path: Path) -> None:
    world.kept_from = {0: 20}
    plan = plan_for(world)
    assert [t.partition for t in plan.tasks] == [1] and "partition 0" in plan.unreachable[0]
    found, _ = replayed(world, tmp_path, plan)
    assert list(found["partitions"]) == ["1"] and found["unreachable"] == list(plan.unreachable)


def test_books_that_a_replay_kept_are_begun_with(world: MemoryWorld, tmp_path: Path) -> None:
    books = tmp_path / "books"
    before, _ = replayed(world, tmp_path, plan_for(world), books=books)
    for i in range(10):
        world.give(pay("acme:purse", "acme:box", 130 + i), pay("zeta:purse", "acme:box", 5))
    whole, _ = replayed(world, tmp_path, plan_for(world))
    ends = {p: int(before["partitions"][str(p)]["next_offset"]) for p in range(2)}
    world.kept_from = ends
    plan = plan_for(world, books=books)
    assert {t.partition: t.start for t in plan.tasks} == ends and len(plan.unreachable) == 2
    found, one = replayed(world, tmp_path, plan, books=books)
    assert found["hash"] == whole["hash"] and not diff.differs(found) and all(one.found["state_equal"].values())
    assert found["commands"] == whole["commands"] - before["commands"]
    what_if = plan_for(world, [rule(free=129, fee=3)], books=books)
    assert "the rules are in force from where each partition begins" in what_if.notes[0]
    changed, _ = replayed(world, tmp_path, what_if)
    assert changed["transactions_changed"] == changed["direct"] == 10


def test_a_late_stretch_is_reached_from_books_unless_rules_are_tried(world: MemoryWorld, tmp_path: Path) -> None:
    books = tmp_path / "books"
    replayed(world, tmp_path, plan_for(world), books=books)
    world.give(*(pay("acme:purse", "acme:box", 1) for _ in range(5)))
    p = partition_of(ACME, 2)
    late = Selection(partitions=(p,), since=str(world.span("submitted", p)[1] - 3))
    assert plan_for(world, (), late, books).tasks[0].start > 0
    assert plan_for(world, [rule(1, 1)], late, books).tasks[0].start == 0


# ---- plans as files ------------------------------------------------------------------------------------------------


def test_a_plan_is_a_file_that_nobody_changes(world: MemoryWorld, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = plan_for(world, [rule(free=129, fee=3)], Selection(partner=ACME))
    digest = write_plan(plan, file)
    assert read_plan(file) == plan and read_plan(file).digest == digest
    text = file.read_text()
    for old, new in (('"acme"', '"zeta"'), ("129", "128"), ('"world": "test"', '"world": "live"'), ("sha256", "sha")):
        assert old in text
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(PlanChangedError):
            read_plan(file)
    file.write_text("[]")
    with pytest.raises(PlanChangedError):
        read_plan(file)


def test_a_plan_whose_ground_is_gone_is_refused(world: MemoryWorld, tmp_path: Path) -> None:
    plan = plan_for(world)
    check_plan(plan, "test", world, {"t": "id"})
    with pytest.raises(PlanChangedError, match="re-created"):
        check_plan(plan, "test", world, {"t": "another"})
    with pytest.raises(PlanChangedError, match="for world test"):
        check_plan(plan, "live", world, {"t": "id"})
    world.kept_from = {1: 3}
    with pytest.raises(PlanChangedError, match="commands are kept from 3"):
        check_plan(plan, "test", world, {"t": "id"})


def test_a_plan_says_what_is_read_how_many_and_how_long(world: MemoryWorld) -> None:
    plan = plan_for(world, (), Selection(partner=ACME))
    p = partition_of(ACME, 2)
    assert plan.commands == len(world.topics["submitted", p]) and plan.exact
    assert plan.seconds == pytest.approx(plan.commands / 1000)
    said = "\n".join(plan.lines())
    assert f"partition {p}: offsets 0 to before {plan.tasks[0].end}" in said
    assert "the selection narrows what is compared, not what is settled" in said
