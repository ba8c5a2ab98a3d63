"""Generated worlds: the same seed gives the same bytes, and the ledger agrees with what the generator expects."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import pytest

from clearline.generator import DAMAGES, Item, encode, generate
from clearline.generator_shelf import shelf_of
from clearline.generator_world import World
from schemas.codec import Codec, UndecodableError
from schemas.records import COMMANDS, RECORDS
from tests.books import Books

PARTITIONS = 4


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec({name: i + 1 for i, name in enumerate(RECORDS)})


def digest(items: object, codec: Codec) -> str:
    h = sha256()
    for item in items:  # type: ignore[attr-defined]
        key, places = item.places(PARTITIONS)
        h.update(repr((key, places)).encode() + encode(item, codec))
    return h.hexdigest()


def test_the_same_seed_gives_the_same_bytes(codec):
    first = digest(generate(11, 3_000), codec)
    assert first == digest(generate(11, 3_000), codec)
    assert first != digest(generate(12, 3_000), codec)


def outcomes(items: object, codec: Codec) -> Counter[str]:
    """Settles the items with the real Book; fails where it disagrees with the generator."""
    books = Books(PARTITIONS)
    seen: Counter[str] = Counter()
    for item in items:  # type: ignore[attr-defined]
        assert isinstance(item, Item)
        _, places = item.places(PARTITIONS)
        try:
            command = codec.decode(encode(item, codec, 100_000))
        except UndecodableError:
            command = None
        if type(command) not in COMMANDS:
            assert item.expected == f"dead:{item.damage}"
            seen["dead"] += 1
            continue
        for p in places:
            r = books.settle(p, command)
            got = f"{r.outcome}:{r.reason}" if r.reason else r.outcome
            assert got == item.expected, (r.detail, command)
            if r.outcome == "settled" and r.first_offset >= 0:
                seen["crossed"] += 1
        seen[item.expected] += 1
    return seen


@pytest.mark.parametrize("options", [{}, {"hot_share": 1.0}, {"partners_max": 1, "accounts_max": 5}], ids=str)
def test_the_ledger_agrees_with_every_expected_outcome_of_the_shelf(options, codec):
    seen = outcomes(generate(5, 5_000, faults=2.0, products=shelf_of(5), **options), codec)
    assert seen["settled"] > 3_500
    assert sum(n for what, n in seen.items() if what.startswith("rejected")) > 100
    assert (seen["crossed"] > 50) == ("partners_max" not in options)


def test_a_day_of_the_shelf_is_the_same_again_and_has_all_kinds(codec):
    items = list(generate(3, 30_000, faults=3.0, products=shelf_of(3)))
    assert digest(items, codec) == digest(generate(3, 30_000, faults=3.0, products=shelf_of(3)), codec)
    reasons = {i.expected.partition(":")[2] for i in items if i.expected.startswith("rejected")}
    assert len(reasons) == 20, reasons
    asked = {(i.command.product, i.command.operation) for i in items if i.kind == "transaction"}  # type: ignore[union-attr]
    assert asked == {
        ("wallet", "transfer"), ("wallet", "top_up"), ("wallet", "send"), ("scan-to-pay", "pay"), ("scan-to-pay", "transfer"),
        ("scan-to-pay", "hold"), ("scan-to-pay", "capture"), ("scan-to-pay", "void"), ("scan-to-pay", "refund"),
        ("payment", "pay_out"), ("escrow", "deposit"), ("escrow", "split"), ("treasury", "exchange"), ("treasury", "sweep"),
        ("e-account", "deposit"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{}, {"hot_share": 0.2}, {"hot_share": 1.0}, {"partners_max": 1, "accounts_max": 5}, {"faults": 5.0}],
    ids=str,
)
def test_the_ledger_agrees_with_every_expected_outcome(options, codec):
    seen = outcomes(generate(5, 5_000, **options), codec)
    refused = sum(n for what, n in seen.items() if what.startswith("rejected"))
    most = 0.05 * 5_000 * options.get("faults", 1.0)
    assert 0 < refused < most
    assert 0 < seen["repeated"] < most
    assert seen["settled"] > 3_500


def test_without_faults_everything_settles(codec):
    seen = outcomes(generate(5, 2_000, faults=0.0, shelf=False), codec)
    assert set(seen) == {"settled", "applied"}


def test_all_kinds_of_refusal_and_damage_come_up(codec):
    items = list(generate(3, 30_000, faults=3.0))
    assert {i.damage for i in items} == {"", *DAMAGES}
    reasons = {i.expected.partition(":")[2] for i in items if i.expected.startswith("rejected")}
    assert len(reasons) == 14
    products = {i.command.product for i in items if i.kind == "transaction"}  # type: ignore[union-attr]
    assert products == {"wallet", "scan-to-pay", "e-account", "payment", "escrow", "treasury"}
    operations = {i.command.operation for i in items if i.kind == "transaction"}  # type: ignore[union-attr]
    assert operations == {"transfer", "hold", "capture", "void", "refund"}


def test_the_load_is_skewed_and_has_a_days_rhythm():
    items = [i for i in generate(1, 20_000, partners_max=60) if i.kind != "setup"]
    assert len(items) == 20_000
    seconds = [i.second for i in items]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] < seconds[-1] < 86_400
    by_hour = Counter(int(s // 3_600) for s in seconds)
    assert by_hour[11] > 10 * by_hour[3]
    roots = Counter(i.places(64)[0] for i in items).most_common()
    assert roots[0][1] > 4 * roots[4][1]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_hot_partner_has_the_share_it_was_given(share):
    items = [i for i in generate(1, 20_000, partners_max=60, hot_share=share) if i.kind == "transaction"]
    roots = Counter(i.places(64)[0] for i in items).most_common()
    assert abs(roots[0][1] / len(items) - share) < 0.03


def test_bounds_are_kept():
    world = World(1, partners_max=40, accounts_max=1_000)
    assert len(world.partners) == 40
    assert world.accounts() <= 1_000
    assert any("/" in p.partner_id for p in world.partners)
    with pytest.raises(ValueError, match="5 accounts for each"):
        World(1, partners_max=10, accounts_max=49)
    with pytest.raises(ValueError, match="hot_share"):
        World(1, partners_max=1, accounts_max=10, hot_share=2.0)


def test_an_unknown_damage_is_a_mistake_of_the_caller(codec):
    item = next(generate(1, 1))
    with pytest.raises(ValueError, match="no such damage"):
        encode(item._replace(damage="smudged"), codec)
