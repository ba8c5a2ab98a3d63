"""Receipts from worlds in memory, and the partner's script: it takes a true receipt and no other."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clearline.audit.views import JOURNAL, SEALS
from clearline.receipts import Place, Receipts, Wanted, bare, final, find, to_text
from schemas.codec import schema_of
from schemas.errors import BadInputError, DifferenceFoundError
from schemas.identity import command_id
from schemas.merkle import leaf, root
from schemas.records import JournalRecord, Seal
from tests.faults.memory_world import MemoryWorld, build_world

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "check_receipt.py"


@cache
def _one() -> MemoryWorld:
    world = build_world(12, 500, step_ms=700)
    world.seal()
    return world


@pytest.fixture
def world() -> MemoryWorld:
    return _one().clone()


def by_time(world: MemoryWorld, late_by: int = 0) -> Any:
    """The first offset whose record was booked at or after a time, `late_by` offsets later than is right."""

    def ask(topic: str, p: int, ms: int) -> int:
        rows = world.log.topic(topic, p)
        booked = (r.timestamp_ms if topic == SEALS else world.codec.decode(r.value).booked_at for r in rows)
        found = next(
            (r.offset for r, at in zip(rows, booked, strict=True) if at >= ms), rows[-1].offset + 1 if rows else 0
        )
        return int(found) + late_by

    return ask


def receipts(world: MemoryWorld, late_by: int = 0) -> Receipts:
    decode = world.codec.decode
    return Receipts("live", world.log, decode, by_time(world, late_by), lambda _: schema_of("JournalRecord"))


def places(world: MemoryWorld, p: int = 0) -> Iterator[tuple[Place, JournalRecord]]:
    for raw in world.log.topic(JOURNAL, p):
        r = world.codec.decode(raw.value)
        yield Place(p, raw.offset, r.sequence, r.outcome, r.reason, r.command), r


def a_receipt(world: MemoryWorld, outcome: str = "settled", nth: int = 20, p: int = 0) -> dict[str, Any]:
    found = [place for place, r in places(world, p) if r.outcome == outcome and r.command == "Transaction"]
    return receipts(world).receipt(found[nth])


@cache
def script() -> Any:
    spec = importlib.util.spec_from_file_location("check_receipt", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked(receipt: dict[str, Any], published: str | None = None, schema: Any = None) -> list[str] | None:
    """What the script prints of a receipt; None when it refuses it."""
    try:
        lines: list[str] = script().check(receipt, published, schema)
    except Exception:
        return None
    return lines


# ---- the script ------------------------------------------------------------------------------------------------------


def test_the_script_is_short_and_needs_only_python():
    text = SCRIPT.read_text()
    assert text.count("\n") < 100
    imported = {
        name
        for node in ast.walk(ast.parse(text, feature_version=(3, 9)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert imported <= sys.stdlib_module_names


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script as a partner runs it: without our packages, our environment or our site-packages."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env={})


def test_a_partner_checks_it_alone(world, tmp_path):
    receipt = a_receipt(world)
    file, contract = tmp_path / "receipt.json", tmp_path / "JournalRecord.avsc"
    file.write_text(to_text(receipt), encoding="utf-8")
    contract.write_text(json.dumps(schema_of("JournalRecord")), encoding="utf-8")
    root_hex = receipt["seal"]["root"]
    for more in ((), ("--root", root_hex), ("--root", root_hex.upper(), "--schema", str(contract))):
        done = run(str(file), *more)
        assert (done.returncode, done.stderr) == (0, ""), done
        t = receipt["transaction"]
        assert done.stdout.splitlines()[:2] == [
            "the receipt holds",
            f"{t['partner_id']} {t['idempotency_key']}: settled ",
        ]
        for leg in t["postings"]:
            assert f"{leg['side']} {leg['account_id']} {leg['amount']} {leg['currency']} (minor units)" in done.stdout
        assert f"root {root_hex}" in done.stdout
    other = run(str(file), "--root", "00" * 32)
    assert (other.returncode, other.stdout) == (
        1,
        "REFUSED: ValueError('the path does not lead to the root of the seal, or that is not the published one')\n",
    )
    file.write_text("{}")
    assert run(str(file)).returncode == 1
    assert run(str(tmp_path / "none.json")).returncode == 1
    assert run("--rot", "00", str(file)).returncode == 2


@pytest.mark.parametrize("outcome", ["settled", "rejected"])
def test_every_byte_of_record_path_root_and_index_counts(world, outcome):
    receipt = a_receipt(world, outcome)
    assert checked(receipt) is not None
    assert len(receipt["path"]) >= 5
    for field in ("record", "seal_body"):
        raw = bytes.fromhex(receipt[field])
        for i in range(len(raw)):
            for bit in (1, 128):
                changed = raw[:i] + bytes([raw[i] ^ bit]) + raw[i + 1 :]
                assert checked({**receipt, field: changed.hex()}) is None, (field, i)
        assert checked({**receipt, field: receipt[field] + "00"}) is None
        assert checked({**receipt, field: receipt[field][:-2]}) is None
    for level, sibling in enumerate(receipt["path"]):
        raw = bytes.fromhex(sibling)
        for i in range(32):
            path = list(receipt["path"])
            path[level] = (raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :]).hex()
            assert checked({**receipt, "path": path}) is None
    for path in (receipt["path"][1:], receipt["path"][:-1], [*receipt["path"], receipt["path"][0]], []):
        assert checked({**receipt, "path": path}) is None
    for name in ("index", "sequence", "partition"):
        for by in (-1, 1, -receipt[name] - 1, 2**40):
            assert checked({**receipt, name: receipt[name] + by}) is None
    for name, value in receipt["seal"].items():
        other = value + 1 if isinstance(value, int) else value[:-1] + ("0" if value[-1] != "0" else "1")
        assert checked({**receipt, "seal": {**receipt["seal"], name: other}}) is None, name
    for name, value in receipt["transaction"].items():
        other = value + 1 if isinstance(value, int) else f"{value}x"
        assert checked({**receipt, "transaction": {**receipt["transaction"], name: other}}) is None, name


def test_any_byte_of_the_file_that_is_changed_is_refused_or_changes_nothing_that_is_said(world):
    text = to_text(a_receipt(world)).encode()
    said = checked(json.loads(text))
    assert said is not None
    accepted = 0
    for i in range(len(text)):
        changed = text[:i] + bytes([text[i] ^ 1]) + text[i + 1 :]
        try:
            receipt = json.loads(changed)
        except ValueError:
            continue
        found = checked(receipt)
        assert found in (None, said), changed[max(0, i - 30) : i + 30]
        accepted += found is not None
    assert accepted < len(text) // 4, "names of fields that nobody reads, white space"


def test_a_record_under_a_root_of_its_own_is_no_match_for_the_published_one(world):
    """Who forges everything at once gets a receipt that holds against itself; only the published root tells."""
    receipt = a_receipt(world)
    r = next(r for _, r in places(world) if r.sequence == receipt["sequence"])
    legs = tuple(msgspec.structs.replace(leg, amount=leg.amount + 1) for leg in r.postings)
    forged = msgspec.structs.replace(r, postings=legs)
    value = world.codec.journal_body(forged) + r.chain
    seal = Seal(0, r.sequence, r.sequence, r.booked_at, r.booked_at, leaf(value), r.chain, bytes(32), 1, "minute")
    fields = {k: v.hex() if isinstance(v, bytes) else v for k, v in msgspec.structs.asdict(seal).items()}
    mine = copy.deepcopy(receipt)
    for leg in mine["transaction"]["postings"]:
        leg["amount"] += 1
    mine.update(record=value.hex(), path=[], index=0, seal=fields, seal_body=world.codec.encode(seal)[5:].hex())
    assert checked(mine) is not None
    assert checked(mine, receipt["seal"]["root"]) is None
    assert checked(receipt, receipt["seal"]["root"]) is not None


# ---- making them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late_by", [0, 10**6, -(10**6)], ids=["time is right", "time misleads", "from the start"])
def test_every_record_of_every_outcome_has_a_receipt_that_holds(world, late_by):
    maker, published = receipts(world, late_by), set()
    for p in range(2):
        raws = [r.value or b"" for r in world.log.topic(JOURNAL, p)]
        for raw in world.log.topic(SEALS, p):
            s = world.codec.decode(raw.value)
            published.add(root([leaf(v[5:]) for v in raws[s.first_sequence - 1 : s.last_sequence]]).hex())
        for place, r in list(places(world, p))[:: 7 if late_by else 1]:
            receipt = maker.receipt(place)
            assert receipt["seal"]["root"] in published
            assert checked(receipt, receipt["seal"]["root"]) is not None
            assert receipt["transaction"]["outcome"] == r.outcome
    assert len(published) > 6


def test_what_is_not_sealed_yet_has_none_and_says_so(world):
    *_, (last, _) = places(world)
    world.log.topic(SEALS, 0).pop()
    with pytest.raises(DifferenceFoundError, match="not sealed yet") as refused:
        receipts(world).receipt(last)
    assert refused.value.exit_code == 1
    world.log.topic(SEALS, 0).clear()
    with pytest.raises(DifferenceFoundError, match="not sealed yet"):
        receipts(world).receipt(last)


def test_a_journal_that_is_not_what_was_sealed_makes_no_receipt(world):
    all_places = list(places(world))
    rows = world.log.topic(JOURNAL, 0)
    rows[30] = rows[30]._replace(value=rows[31].value)
    with pytest.raises(DifferenceFoundError, match="does not fit the journal"):
        receipts(world).receipt(all_places[32][0])
    with pytest.raises(DifferenceFoundError, match="no record at"):
        receipts(world).receipt(all_places[0][0]._replace(offset=10**9))


def test_the_final_record_is_found_in_the_journal(world):
    everything = [(place, r) for p in range(2) for place, r in places(world, p)]
    keys = {(r.partner_id, r.idempotency_key) for _, r in everything if r.partner_id != "bank"}
    for partner, key in sorted(keys):
        wanted = Wanted.of(partner, key, "")
        found = find(world.log, world.codec.decode, wanted, [], {})
        mine = [(place, r) for place, r in everything if r.command_id == command_id(partner, key)]
        assert sorted(found) == sorted(place for place, _ in mine)
        last = final(found)
        assert last is not None
        crossed = [place for place, r in mine if r.binds_key and "crossing" in r.changes]  # decided later, elsewhere
        assert [place for place, r in mine if r.binds_key] == (crossed or [last])
        assert str(wanted) == f"{partner} {key}"


def test_final_is_what_became_of_it():
    def place(sequence: int, outcome: str, reason: str = "", command: str = "Transaction", p: int = 1) -> Place:
        return Place(p, sequence, sequence, outcome, reason, command)

    crossing = place(1, "applied")
    assert final([]) is None
    assert final([crossing, place(2, "repeated")]) is None, "in flight between partitions"
    assert final([crossing, place(2, "repeated"), place(3, "settled"), place(4, "repeated")]) == place(3, "settled")
    assert final([place(1, "settled"), place(2, "rejected", "idempotency_conflict")]) == place(1, "settled")
    assert final([place(1, "rejected", "insufficient_funds")]) == place(1, "rejected", "insufficient_funds")
    assert final([place(1, "settled"), place(9, "settled")]) == place(9, "settled"), "the key was used again"
    control = [place(5, "applied", "", "OpenAccount", p) for p in (2, 0, 1)]
    assert final(control) == control[1]


@pytest.mark.parametrize(
    ("given", "match"),
    [(("acme", "", ""), "PARTNER and KEY"), (("", "", ""), "PARTNER and KEY"), (("acme", "k", "00" * 16), "not both"),
     (("", "", "00" * 15), "32 hexadecimal"), (("", "", "zz" * 16), "32 hexadecimal")],
)  # fmt: skip
def test_what_is_asked_for_is_named_in_one_way(given, match):
    with pytest.raises(BadInputError, match=match):
        Wanted.of(*given)


def test_an_id_alone_is_looked_for_everywhere():
    assert Wanted.of("", "", "ab" * 16).partitions(3) == [[0, 1, 2]]
    assert Wanted.of("bank", "k", "").partitions(3) == [[0, 1, 2]]
    home, elsewhere = Wanted.of("acme/shop", "k", "").partitions(3)
    assert (len(home), sorted(home + elsewhere)) == (1, [0, 1, 2])
    assert str(Wanted.of("", "", "AB" * 16)) == "ab" * 16


def test_a_bare_schema_decodes_the_same(world):
    receipt = a_receipt(world)
    assert "doc" not in json.dumps(receipt["schema"])
    assert bare(receipt["schema"]) == receipt["schema"]
    assert checked(receipt, None, schema_of("JournalRecord")) == checked(receipt)
