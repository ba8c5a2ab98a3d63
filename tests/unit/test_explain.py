"""What is said of a command: nothing that the ledger names is left out, nobody is told of another's balance."""

from __future__ import annotations

import ast
import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clearline.explain import codes_zh
from clearline.explain.examples import DETAILS
from clearline.explain.history import gather
from clearline.explain.refusal import REASONS, explained, refusal
from clearline.explain.said import LANGUAGES, Lang, money, names_of, say
from clearline.explain.sentences import SENTENCES
from clearline.explain.story import Explanation, Reader, accounts_of, of_pending, tell
from clearline.gateway import problems
from clearline.gateway.routes.explain import language_of
from clearline.gateway.twin import LedgerTwin, ledger_of, make_twin
from ledger.calendars import DAY_MS
from ledger.reasons import Reason
from schemas.records import (
    CloseDay,
    Command,
    JournalRecord,
    Limit,
    OpenAccount,
    SetLimit,
    Transaction,
)
from tests.ledger_world import LONG_MS, Ledger
from tests.simulation.test_ledger import logs_of

ROOT = Path(__file__).resolve().parents[2]
CHINESE = re.compile("[\u4e00-\u9fff]")
Refused = tuple[JournalRecord, Command]


# ---- refusals: every reason, every key -------------------------------------------------------------------------------


@cache
def refused() -> list[Refused]:
    """What the ledger refuses of 16,000 commands drawn at random, over three partitions, with and without a shelf."""
    out = []
    for seed in range(4):
        for p, (commands, times) in enumerate(logs_of(seed, 4_000)):
            ledger = Ledger(p, 3, LONG_MS)
            for at in range(0, len(commands), 200):
                draft, records = ledger.draft(commands[at : at + 200], (), times[at : at + 200])
                ledger.commit(draft, records)
                out += [
                    (r, c) for r, c in zip(records, commands[at : at + 200], strict=True) if r.outcome == "rejected"
                ]
    return out


def given_in_the_code() -> Iterator[tuple[Reason, str]]:
    """Reason and key of every detail that the ledger's code writes down."""
    for file in (ROOT / "ledger").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "Rejection":
                continue
            reasons = [
                Reason[n.attr] for n in ast.walk(node.args[0]) if isinstance(n, ast.Attribute) and n.attr.isupper()
            ]
            for reason in reasons:
                yield from ((reason, k.arg) for k in node.keywords if k.arg)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_reason_and_no_key_that_the_ledger_gives_is_left_unexplained(lang: Lang) -> None:
    assert list(REASONS[lang]) == list(Reason)
    assert [(r.value, key) for r, key in given_in_the_code() if key not in explained(r, lang)] == []
    assert len(set(given_in_the_code())) > 90, "the walk over the code still finds them"
    met: dict[Reason, set[str]] = defaultdict(set)
    for r, _ in refused():
        met[Reason(r.reason)] |= r.detail.keys()
    missing = {reason.value: keys - explained(reason, lang) for reason, keys in met.items()}
    assert {reason: keys for reason, keys in missing.items() if keys} == {}
    rare = {Reason.COUNTER_OVERFLOW, Reason.CROSSING_UNKNOWN}  # the examples have these
    assert set(Reason) - met.keys() <= rare, "the commands still meet every other reason"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_each_refusal_is_told_with_its_own_figures(lang: Lang) -> None:
    """Every value of a detail is in the text: as it is, as a number, or as money."""
    for record, command in refused():
        said = refusal(record, command, lang)
        assert said.why and said.cure, record.reason
        for key, value in record.detail.items():
            assert value == "" or _is_told(value, said.why + said.cure), (record.reason, key, value, said)
        if lang == "zh":
            assert CHINESE.search(said.why) and CHINESE.search(said.cure)


def _is_told(value: str, text: str) -> bool:
    if value in text:
        return True
    if not re.fullmatch(r"-?\d+", value):
        return False
    number = int(value)
    return any(f"{number:,}" in text or money(number, c) in text for c in ("CNY", "JPY", "KWD", ""))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_examples_of_all_reasons_are_told(lang: Lang) -> None:
    assert list(DETAILS) == list(Reason)
    for reason, detail in DETAILS.items():
        assert detail.keys() <= explained(reason, lang) | {"available"}, reason
        said = refusal(a_rejected(reason, detail), None, lang)
        assert said.why and said.cure and all(_is_told(v, said.why + said.cure) for v in detail.values()), (
            reason,
            said,
        )


def test_a_key_that_no_sentence_knows_is_said_as_it_is() -> None:
    record = a_rejected(Reason.ACCOUNT_CLOSED, {"field": "accounts.payer", "account": "a:b", "moon": "full"})
    assert refusal(record, None, "en").why.endswith("It also names: moon full.")
    assert refusal(record, None, "zh").why.endswith("其他信息：moon full。")


def test_concrete_figures() -> None:
    def why(reason: Reason, command: Command | None = None, **detail: str) -> str:
        said = refusal(a_rejected(reason, {"field": "amount", **detail}), command, "en")
        return f"{said.why} {said.cure}"

    t = Transaction("acme", "k", "wallet", "transfer", 12_550, "CNY", {"payer": "acme:w:a", "payee": "acme:w:b"}, (), 1)
    text = why(
        Reason.INSUFFICIENT_FUNDS, t, account="acme:w:a", limit="min_available", level="account", allowed="-100",
        available="10000", short="2450",
    )  # fmt: skip
    assert "100.00 CNY available and must keep at least -1.00 CNY" in text and "leave -25.50 CNY" in text
    assert "Bring in 24.50 CNY or more" in text
    limit = {"level": "partner", "subject": "acme", "currency": "CNY"}
    text = why(
        Reason.LIMIT_EXCEEDED, t, limit="amount per day", used="990000", asked="12550", allowed="1000000", **limit
    )
    assert "at most 10,000.00 CNY, 9,900.00 CNY is used, and 125.50 CNY was asked for" in text
    assert "At most 100.00 CNY would pass now. Wait until the next day begins" in text
    text = why(Reason.LIMIT_EXCEEDED, t, limit="count per minute", used="600", asked="1", allowed="600", **limit)
    assert "at most 600, 600 is used, and 1 was asked for" in text and "the next minute" in text
    text = why(Reason.LIMIT_EXCEEDED, t, limit="amount per transaction", used="0", asked="12550", allowed="1", **limit)
    assert "Split the payment" in text and "next" not in text
    text = why(Reason.LIMIT_EXCEEDED, t, limit="currency", used="0", asked="12550", allowed="0", **limit)
    assert "name other currencies only" in text and "would pass now" not in text
    text = why(Reason.POSTINGS_UNBALANCED, t, currency="JPY", debits="100", credits="70")
    assert "100 JPY is debited and 70 JPY is credited" in text and "difference of 30 JPY" in text


def a_rejected(reason: Reason, detail: dict[str, str]) -> JournalRecord:
    return JournalRecord(
        bytes(16), bytes(8), True, "rejected", 1, 0, 0, 0, "Transaction", "acme", "k", "wallet", 1, "transfer", 1, "", {},
        reason, detail, 7 if reason == Reason.IDEMPOTENCY_CONFLICT else -1, "", {}, (),
    )  # fmt: skip


# ---- words -------------------------------------------------------------------------------------------------------------


def test_money_is_never_a_float() -> None:
    assert money(10**37 + 1, "CNY") == f"{10**35:,}.01 CNY"
    assert (money(-5, "KWD"), money(0, "JPY"), money(1_234_567, "JPY")) == ("-0.005 KWD", "0 JPY", "1,234,567 JPY")
    assert (money(1_000, ""), money(1_000, "", "zh")) == ("1,000 minor units", "1,000 个最小货币单位")


def test_both_languages_say_the_same_things() -> None:
    en, zh = SENTENCES["en"], SENTENCES["zh"]
    assert en.keys() == zh.keys()
    assert {k for k in en if names_of(en[k]) != names_of(zh[k])} == set()
    for reason in Reason:
        assert explained(reason, "en") == explained(reason, "zh"), reason
    assert set(codes_zh.CODES) == set(problems.codes())
    assert all(CHINESE.search(meaning) and CHINESE.search(cure) for meaning, cure in codes_zh.CODES.values())


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"), ("zh", "zh"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en, zh", "en"), ("en;q=0.1, zh-Hans;q=0.2", "zh"),
        ("fr, de;q=0.5", "en"), ("*", "en"), ("zh;q=0", "en"), ("zh;q=x, en", "en"), ("zh;q=7", "en"), (";;,,", "en"),
    ],
)  # fmt: skip
def test_the_language_that_is_liked_best(accept: str, language: str) -> None:
    assert language_of(accept) == language


# ---- stories -----------------------------------------------------------------------------------------------------------


def a_world() -> LedgerTwin:
    twin = ledger_of(make_twin())
    twin.publish_shelf("wallet", "scan-to-pay")
    twin.admit("acme", "acme/shop", "globex")
    twin.open("acme:w:a", "acme:w:b", "acme/shop:w:till", "globex:w:x", funds=100_000)
    return twin


def told(
    twin: LedgerTwin, record: JournalRecord, sees: str = "acme", lang: Lang = "en", kept: bool = True
) -> Explanation:
    async def go() -> Explanation:
        found = await twin.by_id(record.command_id)
        assert found is not None
        history = await gather(twin, found if kept else found._replace(command=None))
        if not kept:
            history = replace(history, command=None)
        accounts = {a: twin.account(a) for a in accounts_of(history)}
        reader = Reader(lambda a: a.startswith((sees + ":", sees + "/")), {a: x.type for a, x in accounts.items() if x})
        return tell(history, reader, lang)

    return asyncio.run(go())


def text_of(e: Explanation) -> str:
    return "\n".join([e.summary, *(s.text for s in e.steps), e.why or "", e.cure or ""])


def pay(twin: LedgerTwin, key: str, **more: Any) -> Transaction:
    accounts = {"payer": "acme:w:a", "payee": "acme:w:b"}
    values: dict[str, Any] = {"operation": "transfer", "amount": 500, "currency": "CNY", "accounts": accounts} | more
    return Transaction("acme", key, "wallet", postings=(), value_date=twin.now_ms // DAY_MS, **values)


def test_a_payment_with_its_balances_times_and_offsets() -> None:
    twin = a_world()
    r = twin.settle(pay(twin, "o-1", reference="order 1"))
    e = told(twin, r)
    assert e.summary == "Settled: acme's transfer of wallet, 5.00 CNY from acme:w:a to acme:w:b."
    assert {(s.partition, s.offset) for s in e.steps} == {(r.source_partition, r.source_offset)}
    assert {s.at for s in e.steps} == {f"2026-11-22T09:00:00.{r.booked_at % 1000:03d}Z"}
    text = text_of(e)
    assert "acme:w:a was debited 5.00 CNY. Its balance was then 995.00 CNY, of which 995.00 CNY was available." in text
    assert f"record {r.sequence} of the partition's journal and counts on 2026-11-22" in text and "order 1" in text
    assert (e.why, e.cure, e.id) == (None, None, r.command_id.hex())
    chinese = told(twin, r, lang="zh")
    assert len(chinese.steps) == len(e.steps) and all(CHINESE.search(s.text) for s in chinese.steps)


def test_only_the_readers_own_tree_shows_balances() -> None:
    twin = a_world()
    twin.must(SetLimit("bank", twin.key(), "partner", "globex", (Limit("day", "CNY", 9, None),)))
    r = twin.settle(pay(twin, "o-1", operation="send", accounts={"payer": "acme:w:a", "recipient": "acme/shop:w:till"}))
    for sees, own, other in (("acme/shop", "acme/shop:w:till", "acme:w:a"), ("globex", "", "acme:w:a")):
        legs = {
            s.text.split(" was ")[0]: s.text
            for s in told(twin, r, sees).steps
            if " was debited" in s.text or " was credited" in s.text
        }
        assert "balance" not in legs[other] and "counters" not in legs[other], "the id and the amount, nothing else"
        assert not own or "Its balance was then 1,005.00 CNY" in legs[own]


def test_what_is_available_to_another_is_not_told_by_a_refusal() -> None:
    record = a_rejected(Reason.INSUFFICIENT_FUNDS, DETAILS[Reason.INSUFFICIENT_FUNDS] | {"account": "globex:w:x"})
    for lang in LANGUAGES:
        said = refusal(record, None, lang, lambda account: account.startswith("acme"))
        assert "globex:w:x" in said.why and said.cure
        assert not any(figure in said.why + said.cure for figure in ("100.00", "10,000", "2,550", "25.50"))
        assert "2,550" in refusal(record, None, lang).why


def test_a_payment_between_partitions_with_the_others_steps() -> None:
    twin = a_world()
    to = {"payer": "acme:w:a", "recipient": "globex:w:x"}
    home = twin.settle(pay(twin, "o-1", operation="send", accounts=to))
    there = [r for r in twin.journal if r.command == "Crossing" and r.source_partition != home.source_partition]
    e = told(twin, home)
    steps = {(s.partition, s.offset): s.text for s in e.steps if s.partition != home.source_partition}
    assert steps.keys() == {(r.source_partition, r.source_offset) for r in there} and len(there) == 2
    assert "reserved its part" in steps[there[0].source_partition, there[0].source_offset]
    assert "booked its part" in steps[there[1].source_partition, there[1].source_offset]
    assert [s.at for s in e.steps] == sorted(s.at or "" for s in e.steps), "in the order in which it happened"
    assert "bank:crossing" not in text_of(e) and e.summary.startswith("Settled")
    refused = twin.settle(pay(twin, "o-2", operation="send", accounts=to | {"recipient": "globex:w:none"}))
    e = told(twin, refused)
    assert "refused its part: account_unknown" in text_of(e) and e.why is not None and "globex:w:none" in e.why
    twin.held = True
    under_way = twin.settle(pay(twin, "o-3", operation="send", accounts=to))
    e = told(twin, under_way)
    assert e.summary.startswith("Under way") and "has not answered yet" in text_of(e) and e.why is None
    twin.release()
    assert told(twin, under_way).summary.startswith("Settled")


def test_a_hold_with_what_became_of_it() -> None:
    twin = a_world()
    hold = twin.settle(pay(twin, "h", operation="hold", amount=900, expires_at=twin.now_ms + 60_000))
    assert "9.00 CNY of it is still set aside" in text_of(told(twin, hold))
    capture = twin.settle(pay(twin, "c", operation="capture", amount=300, accounts={}, original="h"))
    other = twin.settle(pay(twin, "h2", operation="hold", amount=100, expires_at=twin.now_ms + 50_000))
    twin.advance(120_000)
    lapsing = twin.settle(pay(twin, "o"))
    assert lapsing.pending, "it carries what lapsed"
    text = text_of(told(twin, hold))
    assert "acme captured 3.00 CNY of it (key c)" in text and "6.00 CNY of the hold was left after that" in text
    assert "The hold lapsed: 6.00 CNY on acme:w:a was released." in text and "still set aside" not in text
    text = text_of(told(twin, capture))
    assert "points back at was asked for by acme under the key h" in text and "3.00 CNY that was set aside" in text
    assert "set aside" not in text_of(told(twin, lapsing)), "what lapsed before it by the clock alone is not its own"
    assert "1.00 CNY on acme:w:a" in text_of(told(twin, other))
    void = twin.settle(pay(twin, "h3", operation="hold", amount=100))
    twin.settle(pay(twin, "v", operation="void", amount=0, accounts={}, original="h3"))
    text = text_of(told(twin, void))
    assert "gave up the rest of it (key v)" in text and "Nothing of the hold was left" in text


def test_late_days_fees_and_accounts_that_were_opened() -> None:
    twin = a_world()
    yesterday = twin.now_ms // DAY_MS - 1
    twin.must(CloseDay("bank", "close", yesterday))
    record = twin.settle(msgspec.structs.replace(pay(twin, "late"), value_date=yesterday))
    text = text_of(told(twin, record))
    assert "It asked to count on 2026-11-21." in text and "2026-11-21 was closed already" in text
    account = {"payer": "acme:w:a", "merchant": "acme/shop:w:till"}
    fee = twin.settle(Transaction("acme", "scan", "scan-to-pay", "pay", 10_000, "CNY", account, (), yesterday + 1))
    text = text_of(told(twin, fee))
    assert "In all 0.60 CNY of it went to the bank." in text and "bank:fees:CNY was credited 0.60 CNY." in text
    assert "with merchant acme/shop:w:till, payer acme:w:a" in text and "Version 1 of the product decided how." in text


def test_control_commands_and_what_the_log_does_not_keep() -> None:
    twin = a_world()
    opened = twin.settle(OpenAccount("acme", "open", "acme:w:new", "liability", "CNY", 0))
    e = told(twin, opened)
    assert e.summary == "Applied: acme's OpenAccount of acme:w:new." and "min_available 0" in text_of(e)
    refused = twin.settle(OpenAccount("acme", "asset", "acme:w:bad", "asset", "CNY", 0))
    e = told(twin, refused)
    assert e.summary == "Rejected (not_permitted): acme's OpenAccount of acme:w:bad." and e.why and e.cure
    paid = twin.settle(pay(twin, "o-1"))
    e = told(twin, paid, kept=False)
    assert "not kept in the log any more" in text_of(e) and e.summary == "Settled: acme's transfer of wallet, 5.00 CNY."


def test_what_has_no_outcome_yet() -> None:
    document = {
        "id": "ab" * 16, "partner_id": "acme", "idempotency_key": "k", "status": "pending", "product": "wallet",
        "operation": "transfer", "amount": 5, "currency": "JPY", "position": {"partition": 1, "offset": 7},
    }  # fmt: skip
    e = of_pending(document, "en")
    assert e.summary == "Under way: acme's transfer of wallet, 5 JPY." and e.steps[0].text.endswith("partition 1.")
    control = {k: v for k, v in document.items() if k not in ("product", "operation", "amount", "currency")}
    e = of_pending(control | {"command": "SetLimit", "subject": "acme/shop", "position": None}, "zh")
    assert e.summary == "处理中：acme 对 acme/shop 的 SetLimit。" and len(e.steps) == 1


def test_templates_name_what_they_say() -> None:
    assert say("{a} {b!m}", {"a": "x{y}", "b": 5}, "CNY") == "x{y} 0.05 CNY"
    assert say("{b!m}", {"b": "2 to 9"}, "CNY") == "2 to 9"
