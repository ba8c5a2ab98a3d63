"""Which dead letters are meant, what may be put back for them, and what never: in memory, with the rules themselves."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as with_fields

from clearline.deadletters.edits import corrected, exported, read_edits, write_files, write_lines
from clearline.deadletters.groups import group
from clearline.deadletters.judge import Judge
from clearline.deadletters.letters import Found, found_of
from clearline.deadletters.match import Match, pattern_of
from clearline.deadletters.moves import REDRIVEN, Moves
from clearline.deadletters.plan import PROOF_AFTER_MS, Plan, Planner, Put, Rules, facts_of
from clearline.deadletters.work import Pace
from processors.settlement import ATTEMPTS_HEADER, REDRIVE_HEADER
from schemas.codec import Codec, schema_text
from schemas.errors import BadInputError, PartUnavailableError
from schemas.examples import examples
from schemas.identity import command_id, partition_of
from schemas.records import (
    RECORDS,
    AccountState,
    Crossing,
    DeadLetter,
    OpenAccount,
    Record,
    Transaction,
    Triage,
)
from streams.host import SchemaLearner
from streams.reader import LogRecord
from streams.triage import Row
from tests.unit.test_settlement import World

PARTITIONS = 4
NOW = 1_795_000_000_000
DAY_MS = 86_400_000
HOME = partition_of("acme", PARTITIONS)


def codec() -> Codec:
    return Codec({name: i for i, name in enumerate(RECORDS, 1)})


CODEC = codec()


def transfer(key: str = "o-1", amount: int = 100, partner: str = "acme", **more: Any) -> Transaction:
    roles = {"payer": f"{partner}:wallet:alice", "payee": f"{partner}:wallet:bob"}
    return with_fields(
        Transaction(partner, key, "wallet", "transfer", amount, "CNY", roles, (), 20_779, "order", {"shop": "17"}),
        **more,
    )


def letter(
    value: bytes | None, at: int = 0, *, reason: str = "too_large", partition: int = HOME, attempts: int = 1,
    source: tuple[int, int] | None = None, detail: str = "1,100 bytes, at most 1,024 are taken", age_ms: int = 1_000,
) -> Found:  # fmt: skip
    source = source or (partition, 1_000 + at)
    return Found(
        partition, at,
        DeadLetter("live.transactions.submitted", *source, NOW - age_ms, reason, detail, attempts, b"acme", value),
    )  # fmt: skip


def test_a_task_that_has_ended_has_moved_what_it_says_though_its_rows_are_read_later() -> None:
    """They stand in other partitions, whose markers may come after that of the one with its end."""
    rows = [Row(Triage("t", REDRIVEN, letter=f"1:{n}", original=f"1:{n}"), n) for n in range(3)]
    moves = Moves([Row(Triage("t", "started", state="redrive", total=9), 0), rows[0]])
    assert moves.tasks["t"].moved == 1
    moves.take(Row(Triage("t", "ended", done=3, state="cancelled"), 5))
    assert moves.tasks["t"].moved == 3
    for row in rows[1:]:
        moves.take(row)
    assert moves.tasks["t"].moved == 3


class Table:
    """A planner and all that it asks, in memory. `outcomes`: of commands that were put back, by place."""

    def __init__(self) -> None:
        self.codec = CODEC
        self.schemas: dict[int, str] = {}
        self.bytes_max = 4_096
        self.moves = Moves()
        self.outcomes: dict[tuple[int, int], str] = {}
        self.stored: dict[bytes, list[tuple[int, int, str]]] | None = {}
        self.next_offset = 5_000
        self.at = NOW

    @property
    def judge(self) -> Judge:
        return Judge(self.codec, self._learn, PARTITIONS, self.bytes_max)

    def _learn(self, ids: set[int]) -> None:
        for i in ids & self.schemas.keys():
            self.codec.add_writer_schema(i, self.schemas[i])

    def _outcome_of(self, row: Row) -> str:
        return self.outcomes.get((row.triage.to_partition, row.triage.to_offset), "")

    def _answered(self, ids: Sequence[bytes]) -> Mapping[bytes, Sequence[tuple[int, int, str]]]:
        if self.stored is None:
            raise PartUnavailableError("ClickHouse", "127.0.0.1:1")
        return {i: self.stored[i] for i in ids if i in self.stored}

    @property
    def planner(self) -> Planner:
        return Planner(self.judge, self._outcome_of, self._answered, 30 * DAY_MS)

    def plan(
        self, *letters: Found, match: Sequence[str] = (), edits: Mapping[str, bytes] | None = None, **rules: Any
    ) -> Plan:
        r = Rules(**rules)
        if edits is not None:
            plan = self.planner.plan_edited(letters, edits, self.moves, r)
        else:
            plan = self.planner.plan(letters, self.moves, Match(match, NOW), r)
        return self.planner.prove(plan, self.moves, NOW)

    def move(self, plan: Plan, outcome: str = "", task: str = "t1") -> list[tuple[int, int]]:
        """Carries a plan out; what then becomes of its commands, and where they stand."""
        places = []
        for put in plan.puts:
            self.next_offset += 1
            move = "discarded" if plan.rules.what == "discard" else "redriven"
            offset = self.next_offset if move == "redriven" else -1
            self.moves.take(Row(put.row(task, move, "ops", "why", offset), self.at))
            if outcome and move == "redriven":
                self.outcomes[put.to_partition, offset] = outcome
            places.append((put.to_partition, offset))
        return places


@pytest.fixture
def table() -> Table:
    return Table()


def refusals(plan: Plan) -> dict[str, str]:
    return {r.id: r.code for r in plan.refused}


# ---- which are meant ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ([], True),
        (["reason=too_large"], True),
        (["reason=contract,too_large"], True),
        (["reason!=too_large"], False),
        (["partner=acme"], True),
        (["partner=acm"], False),
        (["partner=acme/shop"], False),
        (["detail~at most [0-9,]+ are"], True),
        (["detail!~at most"], False),
        (["detail=1,100 bytes, at most 1,024 are taken"], True),
        (["pattern=N,N bytes, at most N,N are taken"], True),
        (["key=o-1,o-2", "record=Transaction", "state=open"], True),
        (["id=9:9"], False),
        ([f"id={HOME}:0"], True),
        (["attempts>=1", "attempts<2", "attempts=1,2"], True),
        (["attempts>1"], False),
        (["schema=34"], True),
        (["age<2s"], True),
        (["age>2s"], False),
        (["received>=2026-11-18T10:00"], True),
        (["received<2026-11-18T10:00:00+00:00"], False),
        ([f"partition={HOME}", "offset=1000"], True),
    ],
)
def test_conditions_say_which_letters_are_meant(table: Table, conditions: list[str], holds: bool):
    schema = int.from_bytes(CODEC.encode(transfer())[1:5], "big")
    conditions = [c.replace("schema=34", f"schema={schema}") for c in conditions]
    facts = facts_of(letter(CODEC.encode(transfer())), table.moves, table.judge)
    assert Match(conditions, NOW)(facts) is holds


def test_a_partner_is_meant_with_all_that_is_below_it_and_of_raw_bytes_by_its_kafka_key(table: Table):
    of_shop = facts_of(letter(CODEC.encode(transfer(partner="acme/shop"))), table.moves, table.judge)
    raw = facts_of(letter(b"{"), table.moves, table.judge)
    for facts in (of_shop, raw):
        assert Match(["partner=acme"])(facts)
    assert (raw.record, raw.key, raw.partner, raw.schema) == ("", "", "acme", -1)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("reason", "is no condition"),
        ("colour=red", "fields are id, original, reason"),
        ("reason>a", "is a text"),
        ("detail~(", "not a regular expression"),
        ("attempts~1", "is a number"),
        ("attempts=many", "not a whole number"),
        ("attempts>1,2", "is a number"),
        ("received>=yesterday", "not a time"),
        ("age<2w", "30m, 2h or 7d"),
        ("age=2h", "compared by < or >"),
    ],
)
def test_a_condition_that_cannot_be_read_is_told(condition: str, words: str):
    with pytest.raises(BadInputError, match="--match") as e:
        Match([condition])
    assert words in str(e.value)


def test_letters_that_died_of_the_same_are_one_group(table: Table):
    wrong = "partition: commands of {} belong to partition {}, this is 1"
    letters = [
        letter(CODEC.encode(transfer()), 0, reason="contract", detail=wrong.format("acme", 3), age_ms=9_000),
        letter(
            CODEC.encode(transfer("o-2")), 1, reason="contract", detail=wrong.format("beta", 2), partition=1, attempts=3
        ),
        letter(b"{", 2, reason="not_framed", detail="the value does not start"),
    ]
    table.move(table.plan(letters[2], what="discard"))
    groups = group(facts_of(f, table.moves, table.judge) for f in letters)
    assert [(g.reason, g.open, g.count) for g in groups] == [("contract", 2, 2), ("not_framed", 0, 1)]
    first = groups[0].to_dict()
    assert first["partitions"] == {str(p): n for p, n in sorted({HOME: 1, 1: 1}.items())}
    assert (first["first_at"], first["last_at"], first["attempts_max"]) == (NOW - 9_000, NOW - 1_000, 3)
    assert groups[1].to_dict()["discarded"] == 1
    assert all(Match(first["match"])(facts_of(f, table.moves, table.judge)) for f in letters[:2]), (
        "a group names itself"
    )
    assert pattern_of("schema id 9017 is not in the registry") == "schema id N is not in the registry"


# ---- what is put back -----------------------------------------------------------------------------------------------


def test_a_letter_is_put_back_as_it_came_where_its_partner_belongs(table: Table):
    value = CODEC.encode(transfer())
    (put,) = table.plan(letter(value, partition=(HOME + 1) % PARTITIONS, reason="contract")).puts
    assert (put.to_partition, put.key, put.value) == (HOME, b"acme", None)
    back = put.command(value)
    assert (back.value, back.first, back.attempts) == (value, put.id, 1)
    assert put.command_id == command_id("acme", "o-1")


def test_what_cannot_be_put_back_is_refused_with_a_word(table: Table):
    bank = CODEC.encode(OpenAccount("bank", "k", "bank:fees:CNY", "income", "CNY"))
    step = next(c for c in examples("Crossing") if isinstance(c, Crossing))
    letters = {
        "undecodable": letter(b"{}", 0),
        "no_command": letter(CODEC.encode(next(iter(examples("AccountState")))), 1),
        "contract": letter(CODEC.encode(transfer("")), 2),
        "too_large": letter(CODEC.encode(transfer(metadata={"x": "y" * 5_000})), 3),
        "misplaced_step": letter(CODEC.encode(step), 4, source=((step.to_partition + 1) % PARTITIONS, 9)),
        "loop": letter(CODEC.encode(transfer("o-9")), 5, attempts=3),
        "empty": letter(None, 6),
    }
    plan = table.plan(*letters.values())
    assert refusals(plan) == {f.id: code.replace("empty", "undecodable") for code, f in letters.items()}
    assert plan.puts == []
    assert [p.id for p in table.plan(letters["loop"], loops=True).puts] == [letters["loop"].id]
    everywhere = table.plan(letter(bank, 7, partition=2))
    assert [(p.to_partition, p.key) for p in everywhere.puts] == [(2, b"bank")], "each partition has its own letter"
    here = table.plan(letter(CODEC.encode(step), 8, source=(step.to_partition, 9)))
    assert [p.to_partition for p in here.puts] == [step.to_partition]


def test_a_schema_that_is_registered_later_makes_a_letter_a_command(table: Table):
    value = b"\0" + (9_017).to_bytes(4, "big") + CODEC.encode(transfer())[5:]
    found = letter(value, reason="unknown_schema")
    assert refusals(table.plan(found)) == {found.id: "undecodable"}
    table.codec, table.schemas[9_017] = codec(), schema_text("Transaction")
    (put,) = table.plan(found).puts
    assert (put.idempotency_key, put.command(value).value) == ("o-1", value), "the bytes stay as they are"


def test_a_letter_is_put_back_once_unless_it_is_asked_for_again(table: Table):
    found = letter(CODEC.encode(transfer()))
    table.move(table.plan(found), "settled")
    assert refusals(table.plan(found)) == {found.id: "already_redriven"}
    assert table.plan(found).counts() == ({"already_redriven": 1}, {})
    (put,) = table.plan(found, again=True).puts
    assert (put.first, put.attempts) == (found.id, 2), "how often it was tried grows"
    assert table.moves.state(found) == "redriven"


def test_a_plan_is_looked_at_again_after_the_fence(table: Table):
    one, two = letter(CODEC.encode(transfer()), 0), letter(CODEC.encode(transfer("o-2")), 1)
    plan = table.plan(one, two)
    table.move(table.plan(one), task="another")
    left = table.planner.again(plan, table.moves)
    assert ([p.id for p in left.puts], refusals(left)) == ([two.id], {one.id: "already_redriven"})
    assert left.digest != plan.digest


def test_what_is_done_with_bytes_that_do_not_decode_is_no_failure_of_the_next_redrive(table: Table):
    mended, dropped = letter(b"{", 0), letter(b"[", 1)
    table.move(table.plan(mended, edits={mended.id: CODEC.encode(transfer())}), "settled")
    table.move(table.plan(dropped, what="discard"))
    assert table.plan(mended, dropped).counts() == ({"already_discarded": 1, "already_redriven": 1}, {})


def test_what_was_discarded_stays_discarded(table: Table):
    found = letter(CODEC.encode(transfer()))
    table.move(table.plan(found, what="discard"), task="t7")
    plan = table.plan(found)
    assert [(r.code, r.detail) for r in plan.refused] == [("already_discarded", "discarded by ops, task t7")]
    assert refusals(table.plan(found, what="discard")) == {found.id: "already_discarded"}
    assert len(table.plan(found, again=True).puts) == 1


def test_a_command_that_dies_again_is_of_the_same_family(table: Table):
    """Which letter came first is told by where the command stood, whatever a header says."""
    first = letter(CODEC.encode(transfer()))
    ((partition, offset),) = table.move(table.plan(first), "dead")
    second = replace(letter(CODEC.encode(transfer()), 1, source=(partition, offset)), first="3:33")
    assert (table.moves.first_of(second), table.moves.attempts(second)) == (first.id, 2)
    ((partition, offset),) = table.move(table.plan(second), "dead")
    third = letter(CODEC.encode(transfer()), 2, source=(partition, offset))
    assert (table.moves.first_of(third), table.moves.attempts(third)) == (first.id, 3)
    assert refusals(table.plan(third)) == {third.id: "loop"}
    assert [r.triage.letter for r in table.moves.family(first.id)] == [first.id, second.id]


def test_an_id_of_a_topic_that_was_made_anew_has_no_history(table: Table):
    table.move(table.plan(letter(CODEC.encode(transfer()))), "settled")
    other = letter(CODEC.encode(transfer("another")))
    assert (table.moves.state(other), table.moves.of(other)) == ("open", [])


def test_headers_of_a_dead_letter_are_read_and_hostile_ones_do_no_harm():
    headers = [("attempts", b"3"), (REDRIVE_HEADER, b"0:5"), ("source_offset", b"x"), (ATTEMPTS_HEADER, None)]
    found = found_of(LogRecord(1, 2, NOW, b"k", b"v", headers))  # type: ignore[arg-type]
    assert (found.first, found.letter.attempts, found.letter.source_offset) == ("0:5", 3, -1)


# ---- corrections ----------------------------------------------------------------------------------------------------


def test_of_two_corrections_never_both_are_applied(table: Table):
    found = letter(CODEC.encode(transfer("")), reason="contract")
    one, two = CODEC.encode(transfer("fixed-1")), CODEC.encode(transfer("fixed-2"))
    table.move(table.plan(found, edits={found.id: one}), task="t5")
    waiting = table.plan(found, edits={found.id: two})
    assert refusals(waiting) == {found.id: "undecided"}
    place = table.moves.family(found.id)[0].triage
    table.outcomes[place.to_partition, place.to_offset] = "settled"
    applied = table.plan(found, edits={found.id: two})
    assert [(r.code, "acme fixed-1" in r.detail, "task t5" in r.detail) for r in applied.refused] == [
        ("applied_before", True, True)
    ]
    assert refusals(table.plan(found, edits={found.id: two}, again=True)) == {found.id: "applied_before"}
    assert refusals(table.plan(found, edits={found.id: one})) == {found.id: "already_redriven"}
    for outcome in ("dead", "rejected"):
        table.outcomes[place.to_partition, place.to_offset] = outcome
        assert len(table.plan(found, edits={found.id: two}).puts) == 1, "the first one came to nothing"
    same_key = CODEC.encode(transfer("fixed-1", 7))
    table.outcomes[place.to_partition, place.to_offset] = "settled"
    assert len(table.plan(found, edits={found.id: same_key}).puts) == 1, "the ledger itself refuses it: one key"


def test_a_letter_of_the_same_family_cannot_be_corrected_beside(table: Table):
    first = letter(CODEC.encode(transfer()))
    ((partition, offset),) = table.move(table.plan(first), "dead")
    second = letter(CODEC.encode(transfer()), 1, source=(partition, offset))
    table.move(table.plan(second, edits={second.id: CODEC.encode(transfer("other"))}), "settled")
    assert refusals(table.plan(first, again=True)) == {first.id: "applied_before"}
    both = table.plan(
        first, second, edits={first.id: CODEC.encode(transfer("x")), second.id: CODEC.encode(transfer("y"))}
    )
    assert set(refusals(both).values()) == {"applied_before"}


def test_two_corrections_of_one_family_in_one_plan_are_refused(table: Table):
    first = letter(CODEC.encode(transfer()))
    ((partition, offset),) = table.move(table.plan(first), "dead")
    second = letter(CODEC.encode(transfer()), 1, source=(partition, offset))
    edits = {first.id: CODEC.encode(transfer("x")), second.id: CODEC.encode(transfer("y"))}
    plan = table.plan(first, second, edits=edits)
    assert ([p.id for p in plan.puts], refusals(plan)) == ([first.id], {second.id: "two_commands"})


def test_the_bytes_as_they_came_are_not_put_back_beside_a_correction(table: Table):
    found = letter(CODEC.encode(transfer()), reason="contract")
    table.move(table.plan(found, edits={found.id: CODEC.encode(transfer("fixed"))}), "settled")
    assert refusals(table.plan(found)) == {found.id: "already_redriven"}
    assert refusals(table.plan(found, again=True)) == {found.id: "applied_before"}


def test_a_correction_keeps_its_bytes_and_the_link_to_the_letter(table: Table):
    found = letter(b"{", reason="not_framed")
    value = CODEC.encode(transfer("fixed"))
    plan = table.plan(found, edits={found.id: value})
    (put,) = plan.puts
    row = put.row("t1", "redriven", "ops", "ticket 812", 4_711)
    assert (row.letter, row.original, row.edited, row.value) == (found.id, found.id, True, value)
    assert (row.letter_digest, row.payload_digest) == (sha256(b"{").digest(), sha256(value).digest())
    assert put.command(b"{").value == value
    decoded = CODEC.decode(CODEC.encode(row))
    assert isinstance(decoded, Triage)
    assert decoded == row


@pytest.mark.parametrize(
    "record", [next(iter(examples("Crossing"))), OpenAccount("bank", "k", "bank:x", "asset", "CNY")]
)
def test_what_all_partitions_were_told_cannot_be_corrected_in_one(table: Table, record: Record):
    found = letter(b"{")
    assert refusals(table.plan(found, edits={found.id: CODEC.encode(record)})) == {found.id: "not_editable"}


def test_a_workers_step_cannot_be_replaced(table: Table):
    found = letter(CODEC.encode(next(iter(examples("Crossing")))))
    assert refusals(table.plan(found, edits={found.id: CODEC.encode(transfer())})) == {found.id: "not_editable"}


# ---- keys that may be forgotten -------------------------------------------------------------------------------------


def test_a_late_letter_is_put_back_only_if_its_key_was_never_answered(table: Table):
    late = letter(CODEC.encode(transfer()), age_ms=PROOF_AFTER_MS + 1)
    assert len(table.plan(late).puts) == 1
    table.stored = {command_id("acme", "o-1"): [(2, 17, "settled")]}
    plan = table.plan(late)
    assert refusals(plan) == {late.id: "answered_before"}
    assert "2:17" in plan.refused[0].detail
    table.stored = None
    assert refusals(table.plan(late)) == {late.id: "unproven"}
    assert len(table.plan(letter(CODEC.encode(transfer()))).puts) == 1, "a fresh one needs no proof"


def test_a_late_letter_may_be_put_back_again_while_the_ledger_remembers(table: Table):
    late = letter(CODEC.encode(transfer()), age_ms=40 * DAY_MS)
    table.at = NOW - DAY_MS
    ((partition, offset),) = table.move(table.plan(late), "settled")
    table.stored = {command_id("acme", "o-1"): [(partition, offset, "settled")]}
    assert len(table.plan(late, again=True).puts) == 1
    forgotten = Table()
    forgotten.at = NOW - 20 * DAY_MS
    ((partition, offset),) = forgotten.move(forgotten.plan(late), "settled")
    forgotten.stored = {command_id("acme", "o-1"): [(partition, offset, "settled")]}
    assert refusals(forgotten.plan(late, again=True)) == {late.id: "answered_before"}


# ---- files ----------------------------------------------------------------------------------------------------------


FULL = transfer(
    "o-7", expires_at=1_795_000_000_123, original="h-1", note="n", final=True, rate="1.5", exponent=2
)  # fmt: skip


@pytest.mark.parametrize("as_files", [False, True])
def test_what_is_exported_comes_back_corrected(table: Table, tmp_path: Path, as_files: bool):
    letters = [letter(CODEC.encode(transfer("o-1", 100)), 0), letter(CODEC.encode(FULL), 1), letter(b"{", 2)]
    write = write_files if as_files else write_lines
    to = tmp_path / "letters"
    assert write(to, (exported(f, table.moves, table.judge) for f in letters)) == 3
    edits = read_edits(to)
    assert [base64.b64decode(e["value_base64"]) for e in edits.values()] == [f.letter.value for f in letters]
    edits[letters[0].id]["command"]["amount"] = 250
    edits[letters[1].id]["command"]["note"] = "corrected"
    edits[letters[1].id]["command"]["operation"] = "capture"
    for name in ("accounts", "expires_at", "rate", "note"):
        edits[letters[1].id]["command"].pop(name)
    edits[letters[2].id]["value_base64"] = base64.b64encode(CODEC.encode(transfer("o-9"))).decode()
    values = corrected(edits, letters, table.judge)
    assert CODEC.decode(values[letters[0].id]) == transfer("o-1", 250)
    second = CODEC.decode(values[letters[1].id])
    assert (second.operation, second.original, second.final, second.exponent) == ("capture", "h-1", True, 2)
    assert CODEC.decode(values[letters[2].id]) == transfer("o-9")


def test_a_commands_document_is_what_publish_reads(table: Table):
    from datetime import date

    from clearline.contract import read_command

    for t in (c for c in examples("Transaction") if isinstance(c, Transaction)):
        document = exported(letter(CODEC.encode(t)), table.moves, table.judge)
        if not document["problems"]:
            assert read_command(document["command"], date.min) == t
    broken = exported(letter(CODEC.encode(transfer(""))), table.moves, table.judge)
    assert broken["problems"], "what is wrong with it stands beside it"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "nothing is corrected"),
        ({"sha256": "00"}, "is the file of another world"),
        ({"value_base64": "?"}, "is not base64"),
        ({"command": {"partner_id": "acme"}, "value_base64": "AAAA"}, "change one of them"),
        ({"command": {"partner_id": "acme", "idempotency_key": "x"}}, "value_date: must be given"),
        ({"command": {"value_date": "2026-11-22", "idempotency_key": ""}}, "partner_id"),
        ({"command": "x"}, "must be a JSON object"),
    ],
)
def test_a_file_that_is_wrong_names_the_line_and_the_rule(
    table: Table, tmp_path: Path, change: dict[str, Any], words: str
):
    found = letter(CODEC.encode(transfer()))
    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps({**exported(found, table.moves, table.judge), **change}) + "\n")
    with pytest.raises(BadInputError) as e:
        corrected(read_edits(file), [found], table.judge)
    assert words in str(e.value)
    assert f"line 1, letter {found.id}" in str(e.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no letters"), ("{", "is not JSON"), ("[]", "is no letter"), ('{"id": "0:1"}', "is no letter"),
        ('{"id": "0:1", "sha256": "a"}\n{"id": "0:1", "sha256": "a"}', "stands here twice"),
    ],
)  # fmt: skip
def test_a_file_that_nobody_exported_is_refused(tmp_path: Path, text: str, words: str):
    file = tmp_path / "x.jsonl"
    file.write_text(text)
    with pytest.raises(BadInputError) as e:
        read_edits(file)
    assert words in str(e.value)
    with pytest.raises(BadInputError):
        read_edits(tmp_path / "none")


# ---- the pace -------------------------------------------------------------------------------------------------------


def test_the_pace_is_the_rate_and_a_pause_is_not_made_up_for_in_a_flood():
    pace, went = Pace(500, 0.0), 0
    for ms in range(0, 4_000, 7):
        due = pace.due(ms / 1000)
        pace.went(due)
        went += due
    assert abs(went - 500 * 3.997) < 5
    assert pace.due(60.0) <= 500 * 0.5 + 1
    assert Pace(0, 0.0).due(0.0) > 100


def test_the_digest_of_a_plan_names_every_letter_and_what_is_put_back(table: Table):
    one, two = letter(CODEC.encode(transfer()), 0), letter(CODEC.encode(transfer("o-2")), 1)
    digests = {
        table.plan(one).digest, table.plan(one, two).digest, table.plan(one, what="discard").digest,
        table.plan(one, edits={one.id: CODEC.encode(transfer("o-3"))}).digest,
    }  # fmt: skip
    assert len(digests) == 4
    assert isinstance(table.plan(one).puts[0], Put)
    assert (
        AccountState.__name__ == table.judge.read(CODEC.encode(next(iter(examples("AccountState"))))).__class__.__name__
    )


# ---- what the workers carry on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("came_with", "attempts", "first"),
    [
        ([], b"1", None),
        ([(ATTEMPTS_HEADER, b"2"), (REDRIVE_HEADER, b"1:17")], b"3", b"1:17"),
        ([(ATTEMPTS_HEADER, b"many"), (REDRIVE_HEADER, b"1:17; DROP")], b"1", None),
        ([(ATTEMPTS_HEADER, None), (REDRIVE_HEADER, None)], b"1", None),
        ([(ATTEMPTS_HEADER, b"9" * 40), (REDRIVE_HEADER, b"9" * 40)], b"1", None),
    ],
)
def test_a_command_that_dies_again_says_how_often_and_which_came_first(came_with: Any, attempts: bytes, first: bytes):
    w = World()
    w.batch([w.message(b"{}", head=came_with)])
    headers = dict(w.of("dead")[0][4]["headers"])
    assert (headers["attempts"], headers.get(REDRIVE_HEADER)) == (attempts, first)


def test_a_schema_that_is_not_ours_is_asked_for_again_after_a_while():
    asked: list[int] = []

    class Registry:
        def schema_text(self, schema_id: int) -> str | None:
            asked.append(schema_id)
            return schema_text("Transaction") if len(asked) > 2 else None

    learner = SchemaLearner(codec(), Registry(), ask_again_s=1e9)  # type: ignore[arg-type]
    assert (learner({9_017}), learner({9_017}), asked) == ({9_017}, {9_017}, [9_017])
    at_once = SchemaLearner(codec(), Registry(), ask_again_s=0)  # type: ignore[arg-type]
    assert (at_once({9_017}), at_once({9_017}), asked) == ({9_017}, set(), [9_017] * 3)
