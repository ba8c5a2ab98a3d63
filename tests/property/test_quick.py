"""The quick check of the publisher says of every document what the full check says, in bytes that mean the same."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.contract import ContractError
from clearline.quick import QuickCheck
from clearline.sending import encode_chunk
from tests.journals import local_codec

CODEC = local_codec()
DAY = date(2026, 11, 22)
PARTITIONS = 4
BYTES_MAX = 1_800
LONG = "订" * 600
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "订单 1", "Größe", "a\nb", "\x7f", "\ud800", "x" * 1024, "x" * 1025, LONG, "k" * 64, "k" * 65]
    ),
)
KEYS = st.one_of(st.text(max_size=6), st.sampled_from(["k" * 128, "k" * 129, "a\nb", "键", "é", "\ud800"]))
NUMBERS = (0, 1, -1, 63, 64, 8191, 8192, 8193, 2**31, 2**63 - 1, 2**63, 1.0, True, "5", None)
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "partner_id": st.sampled_from(["acme/shop-17", "zeta", "bank", "Acme", "", "a" * 65, "unseen"]),
    "idempotency_key": KEYS,
    "product": st.sampled_from(["钱包", "", "p\n", "unseen", 5]),
    "operation": st.sampled_from(["hold", "collect", "refund", "exchange", "capture", "adjustment"]),
    "amount": st.one_of(st.integers(-1, 20_000), st.sampled_from(NUMBERS)),
    "currency": st.sampled_from(["USD", "cny", "XXX", None]),
    "value_date": st.sampled_from(["2026-11-23", "2026-02-30", "", None, 5]),
    "reference": TEXTS,
    "metadata": st.one_of(st.dictionaries(TEXTS, TEXTS, max_size=3), st.sampled_from([{"a": 1}, {str(i): "" for i in range(65)}])),
    "payer": st.sampled_from(["acme:wallet:bob", "zeta:w:a", "acme", ":x", "acme:W", "", 5]),
    "payee": st.sampled_from(["acme:wallet:alice", "bank:clearing:CNY", "acme:", None]),
    "swapped": st.just(True),
    "fee": st.just("acme:fee"),
    "surprise": st.just(1),
    "command": st.sampled_from(["Transaction", "OpenAccount"]),
    "note": TEXTS,
    "original": KEYS,
    "final": st.booleans(),
    "postings": st.just([]),
}  # fmt: skip


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    """An ordinary transaction with up to two fields that are another, at a limit, wrong, or left out."""
    document = plain(key=draw(st.sampled_from(["o-1", "订单-2"])), amount=draw(st.integers(1, 10**6)))
    for name in draw(st.lists(st.sampled_from(list(CHOICES)), max_size=2)):
        where = document["accounts"] if name in ("payer", "payee", "fee") else document
        if name == "swapped":
            document["accounts"] = dict(reversed(document["accounts"].items()))
        elif name in where and draw(st.integers(0, 5)) == 0:
            del where[name]
        else:
            where[name] = draw(CHOICES[name])
    return document


def verdict(check: QuickCheck, document: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What the full check says: the command, key and partitions; or its errors."""
    try:
        value, (key, partitions) = check.full(document, DAY)
    except ContractError as e:
        return e.errors, None, None
    return CODEC.decode(value), key, partitions


def known() -> QuickCheck:
    """A check that knows the ordinary shapes."""
    check = QuickCheck(CODEC, PARTITIONS, BYTES_MAX)
    for partner in ("acme", "acme/shop-17", "zeta"):
        for currency in ("CNY", "USD"):
            for operation in ("transfer", "hold", "collect"):
                for product in ("wallet", "钱包"):
                    check.full(plain(partner, currency=currency, operation=operation, product=product), DAY)
    return check


def plain(partner: str = "acme", key: str = "o-1", **more: Any) -> dict[str, Any]:
    return {
        "partner_id": partner, "idempotency_key": key, "product": "wallet", "operation": "transfer", "amount": 12_550,
        "currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"},
        "value_date": "2026-11-22", "reference": "order 1001", "metadata": {"shop": "17"}, **more,
    }  # fmt: skip


CHECK = known()


@settings(max_examples=1_500, deadline=None)
@given(documents())
def test_the_quick_check_takes_nothing_that_the_full_check_refuses_and_means_the_same(document: dict[str, Any]):
    fresh = QuickCheck(CODEC, PARTITIONS, BYTES_MAX)
    said, key, partitions = verdict(fresh, document)
    quick = CHECK.quick((document,), DAY)
    if quick is not None:
        ((p, (message,)),) = quick.items()
        assert (CODEC.decode(message["value"]), message["key"], (p,)) == (said, key, partitions)
        if list(document["accounts"]) == ["payer", "payee"]:
            assert message["value"] == fresh.full(document, DAY)[0]


@settings(max_examples=200, deadline=None)
@given(st.lists(documents(), max_size=6))
def test_a_chunk_is_each_of_its_documents_in_order(chunk: list[dict[str, Any]]):
    fresh = QuickCheck(CODEC, PARTITIONS, BYTES_MAX)
    refused: dict[int, Any] = {}
    found = encode_chunk(CHECK, chunk, DAY, lambda i, e: refused.__setitem__(i, e.errors))
    expected: dict[int, list[Any]] = {}
    wrong: dict[int, Any] = {}
    for i, document in enumerate(chunk):
        keyed = document if "idempotency_key" in document else {**document, "idempotency_key": "made up"}
        said, key, partitions = verdict(fresh, keyed)
        if partitions is None:
            wrong[i] = said
            continue
        for p in partitions:
            expected.setdefault(p, []).append((said, key, "idempotency_key" in document))
    assert refused == wrong
    assert {p: len(m) for p, m in found.items()} == {p: len(m) for p, m in expected.items()}
    for p, messages in found.items():
        for message, (said, key, keyed) in zip(messages, expected[p], strict=True):
            command = CODEC.decode(message["value"])
            assert message["key"] == key
            if keyed:
                assert command == said
            else:
                assert command.idempotency_key.startswith("sdk-")


@settings(max_examples=300, deadline=None)
@given(
    st.text(min_size=1, max_size=40).filter(str.isprintable),
    st.integers(1, 2**63 - 1),
    st.text(max_size=60),
    st.sampled_from(("acme", "acme/shop-17", "zeta")),
)
def test_ordinary_transactions_are_quick(key: str, amount: int, reference: str, partner: str):
    document = json.loads(
        json.dumps(plain(partner, key, amount=amount, reference=reference, metadata={"店": reference}))
    )
    quick = CHECK.quick((document,), DAY)
    assert quick is not None
    ((_, (message,)),) = quick.items()
    assert message["value"] == QuickCheck(CODEC, PARTITIONS, BYTES_MAX).full(document, DAY)[0]


def test_what_is_remembered_is_bounded_and_the_banks_own_is_not_remembered():
    check = QuickCheck(CODEC, PARTITIONS, BYTES_MAX)
    check.full(plain("bank", accounts={"payer": "bank:clearing:CNY", "payee": "acme:wallet:bob"}), DAY)
    assert (len(check._kinds), check._known) == (0, 0)
    check.full(plain(), DAY)
    assert check._known == len(check._kinds) == len(check._days) == 1
    assert check.quick((plain(value_date="2026-11-23"),), DAY) is None, "a day that was not seen"
    assert check.quick((plain(reference="x" * 1024, metadata={"a": "x" * 1024}),), DAY) is None, "too large"


def test_amounts_of_every_length_are_quick():
    fresh = QuickCheck(CODEC, PARTITIONS, BYTES_MAX)
    for bits in range(63):
        for amount in {max(1, (1 << bits) - 1), 1 << bits, (1 << bits) + 1}:
            quick = CHECK.quick((plain(amount=amount),), DAY)
            assert quick is not None, amount
            ((_, (message,)),) = quick.items()
            assert message["value"] == fresh.full(plain(amount=amount), DAY)[0], amount
