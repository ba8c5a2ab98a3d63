"""The pure core: microseconds per transaction, beside the barest loop that does the same arithmetic; bytes of memory.

    ./run bench settle [--transactions N] [--rounds N] [--json]

Both sides take the same transfers, already decoded and with their ids, in turns in one process. The barest loop is two
dicts and integers: is the id known, does the limit hold, two balances, an entry that balances, the next sequence. The
core does all of that and every other check, on drafts that can be dropped, and gives a journal record with reasons and
counters. Floors: at most 3 times the barest loop, and less than 64 bytes per remembered key. Time is processor time of
this process, so that what else runs on the machine is not counted.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from time import process_time
from typing import Any

from msgspec.structs import replace

from benchmarks.machine import Results
from ledger.accounts import Account
from ledger.book import Book
from ledger.entries import ENTRY, EntryLog
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase, Partner
from schemas.codec import Codec
from schemas.identity import command_id, payload_digest
from schemas.records import RECORDS, Limit, LimitState, Posting, ProductState, Transaction

SEED = 20261122
RATIO_MAX = 3.0
KEY_BYTES_MAX = 64
DAY, BOOKED_AT = 20_779, 1_795_338_000_000


def transfers(count: int, accounts: int, seed: int = SEED) -> list[Transaction]:
    """Transfers between wallets of 50 partners, busy ones more often (1/rank, as in Zipf's law)."""
    random = Random(seed)
    names = account_names(accounts)
    weights = [1 / (i + 1) for i in range(accounts)]
    chosen = random.choices(names, weights, k=2 * count)
    out = []
    for i in range(count):
        payer, payee = chosen[2 * i], chosen[2 * i + 1]
        partner = payer.partition(":")[0]
        if payee.partition(":")[0] != partner or payee == payer:
            payee = f"{partner}:wallet:shared"
        roles = {"payer": payer, "payee": payee}
        out.append(
            Transaction(partner, f"o-{i}", "wallet", "transfer", random.randrange(1, 50_000), "CNY", roles, (), DAY)
        )
    return out


def account_names(accounts: int) -> list[str]:
    return [f"p{i % 50}:wallet:{i}" for i in range(accounts)]


def base_state(accounts: int) -> PartitionBase:
    """Partners and wallets as after a recovery, each wallet with money."""
    base = PartitionBase()
    for i in range(50):
        base.partners[f"p{i}"] = Partner(f"p{i}", f"Partner {i}", "live", 0)
    for name in (*account_names(accounts), *(f"p{i}:wallet:shared" for i in range(50))):
        account = Account.new(name, "liability", "CNY", 0, 0)
        account.credits_posted = 10**12
        base.accounts[name] = account
    return base


def run_core(
    commands: list[Transaction], ids: list[bytes], digests: list[bytes], base: PartitionBase, batch: int
) -> float:
    """Seconds (of processor time) to settle and merge all of them in batches."""
    started = process_time()
    for start in range(0, len(commands), batch):
        draft = Draft(base)
        settle = Book(0, draft).settle
        records = [
            settle(c, i, d, n, BOOKED_AT)
            for n, (c, i, d) in enumerate(
                zip(
                    commands[start : start + batch],
                    ids[start : start + batch],
                    digests[start : start + batch],
                    strict=True,
                ),
                start,
            )
        ]
        draft.merge()
    seconds = process_time() - started
    assert records[-1].outcome == "settled", records[-1]
    return seconds


def run_barest(commands: list[Transaction], ids: list[bytes], accounts: dict[str, dict[str, int]]) -> float:
    """Seconds for the same arithmetic with dicts and integers: what anybody would write first."""
    seen: dict[bytes, int] = {}
    entries = []
    sequence = 0
    started = process_time()
    for offset, (t, name) in enumerate(zip(commands, ids, strict=True)):
        if name in seen:
            continue
        seen[name] = offset
        payer, payee, amount = t.accounts["payer"], t.accounts["payee"], t.amount
        a, b = accounts[payer], accounts[payee]
        if a["credits"] - a["debits"] - amount < a["limit"]:
            continue
        a["debits"] += amount
        b["credits"] += amount
        sequence += 1
        legs = (payer, -amount, a["debits"], a["credits"]), (payee, amount, b["debits"], b["credits"])
        entries.append((sequence, name, legs))
    seconds = process_time() - started
    assert sequence == len(commands)
    return seconds


def settle_figures(count: int, accounts: int, rounds: int, batch: int) -> dict[str, Any]:
    """Microseconds per transaction of both, in turns: the best round of each, and the median of the rounds' ratios."""
    commands = transfers(count, accounts)
    ids = [command_id(c.partner_id, c.idempotency_key) for c in commands]
    digests = [payload_digest(c) for c in commands]
    core, barest = [], []
    for _ in range(rounds):
        base = base_state(accounts)
        plain = {name: {"debits": 0, "credits": 10**12, "limit": 0} for name in base.accounts}
        gc.collect()
        gc.freeze()
        barest.append(run_barest(commands, ids, plain))
        core.append(run_core(commands, ids, digests, base, batch))
        gc.unfreeze()
        assert all(a.debits_posted == plain[n]["debits"] for n, a in base.accounts.items())
    per = 1e6 / count
    ratios = [c / b for c, b in zip(core, barest, strict=True)]
    return {
        "transactions": count,
        "accounts": accounts,
        "batch": batch,
        "rounds": rounds,
        "core_us": round(min(core) * per, 3),
        "barest_us": round(min(barest) * per, 3),
        "ratio": round(median(ratios), 2),
        "ratio_of_each_round": [round(r, 2) for r in ratios],
        "ratio_max": RATIO_MAX,
    }


def operation_figures(count: int, accounts: int, batch: int) -> dict[str, Any]:
    """Microseconds per hold, per capture of it, and per refund of that capture; the best of three rounds each."""
    paid = transfers(count, accounts)
    held = [replace(t, operation="hold") for t in paid]
    captured = [
        replace(
            t, operation="capture", idempotency_key=f"c-{t.idempotency_key}", original=t.idempotency_key, accounts={}
        )
        for t in paid
    ]
    refunded = [
        replace(t, operation="refund", idempotency_key=f"r-{t.idempotency_key}", original=t.idempotency_key)
        for t in captured
    ]
    best: dict[str, float] = {}
    for _ in range(3):
        base, offset = base_state(accounts), 0
        keys: dict[bytes, tuple[bytes, int]] = {}
        for name, commands in (("hold", held), ("capture", captured), ("refund", refunded)):
            took = _settle_all(commands, base, keys, offset, batch)
            offset += count
            best[f"{name}_us"] = round(min(took, best.get(f"{name}_us", took)), 2)
    return best


def _settle_all(
    commands: list[Transaction], base: PartitionBase, keys: dict[bytes, tuple[bytes, int]], offset: int, batch: int
) -> float:
    """Microseconds per command to settle and merge all of them, `batch` in a draft, from this offset on."""
    ids = [command_id(c.partner_id, c.idempotency_key) for c in commands]
    digests = [payload_digest(c) for c in commands]
    gc.collect()
    started = process_time()
    for start in range(0, len(commands), batch):
        draft = Draft(base)
        draft.keys = keys
        settle = Book(0, draft).settle
        for n in range(start, min(start + batch, len(commands))):
            record = settle(commands[n], ids[n], digests[n], offset + n, BOOKED_AT)
        draft.merge()
    took = (process_time() - started) / len(commands) * 1e6
    assert record.outcome == "settled", record
    return took


def terms_figures(count: int, accounts: int, batch: int) -> dict[str, Any]:
    """Microseconds per plain transfer of a product on the shelf; per one that counts against limits of its partner, its
    account and the product (per transaction, day and month, amount and number); per split in three, a fee of 0.6 % with
    bounds among the parts, with the same limits; and per exchange. The best of three."""
    paid = transfers(count, accounts)
    position = {"sold": "bank:fx:CNY", "bought": "bank:fx:EUR"}
    exchanged = [
        replace(
            t,
            operation="exchange",
            rate="1.25",
            accounts={"payer": t.accounts["payer"], "payee": f"{t.partner_id}:wallet:eur", **position},
        )
        for t in paid
    ]
    split = [replace(t, operation="split") for t in paid]
    best: dict[str, float] = {}
    for _ in range(3):
        for name, commands in (("shelf", paid), ("limits", paid), ("split", split), ("exchange", exchanged)):
            base = base_state(accounts)
            if name == "exchange":
                _open_position(base)
            else:
                _put_on_shelf(base)
            if name in ("limits", "split"):
                _limit_everything(base)
            took = _settle_all(commands, base, {}, 0, batch)
            best[f"{name}_us"] = round(min(took, best.get(f"{name}_us", took)), 2)
    return best


def _open_position(base: PartitionBase) -> None:
    """The bank's position accounts, and a wallet in euro for each partner."""
    for name, type_ in (("bank:fx:CNY", "asset"), ("bank:fx:EUR", "asset")):
        base.accounts[name] = Account.new(name, type_, name[-3:], None, 0)
    for i in range(50):
        name = f"p{i}:wallet:eur"
        base.accounts[name] = Account.new(name, "liability", "EUR", 0, 0)


def _put_on_shelf(base: PartitionBase) -> None:
    """A wallet product: a transfer moves the amount from payer to payee, a split keeps a fee and a share of it back."""
    fee = {"percent": "0.6", "min": {"CNY": 1}, "max": {"CNY": 2500}}
    shares = [{"role": "payee"}, {"role": "fees", "amount": fee}, {"role": "share", "amount": {"percent": "3"}}]
    bank = {name: {"owner": "bank", "account": f"bank:{name}:{{currency}}"} for name in ("fees", "share")}
    operations = {
        name: {"kind": "transfer", "steps": [{"from": "payer", "amount": "amount", "to": to}]}
        for name, to in (("transfer", shares[:1]), ("split", shares))
    }
    document = {
        "product": "wallet", "version": 1, "currencies": ["CNY"],
        "roles": {"payer": {"owner": "caller"}, "payee": {"owner": "any"}, **bank}, "operations": operations,
    }  # fmt: skip
    for name in ("bank:fees:CNY", "bank:share:CNY"):
        base.accounts[name] = Account.new(name, "income", "CNY", None, 0)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    base.put_row("d:wallet:1", ProductState("wallet", 1, 0, text, 0))


def _limit_everything(base: PartitionBase) -> None:
    """Limits at three levels that all transfers keep."""
    most = 10**15
    limits = (
        Limit("transaction", "CNY", None, most),
        Limit("day", "CNY", 10**9, most),
        Limit("month", "CNY", None, most),
    )
    subjects = [("partner", f"p{i}") for i in range(50)]
    subjects += [("account", name) for name in base.accounts]
    for level, subject in (*subjects, ("product", "wallet")):
        base.put_row(f"l:{level}:{subject}", LimitState(level, subject, limits, 0))


def beside_figures(count: int, accounts: int) -> dict[str, Any]:
    """What stands before and after the core in a worker, in microseconds per transaction: codec, identity, chain."""
    commands = transfers(count, accounts)
    codec = Codec({name: i for i, name in enumerate(RECORDS, 1)})
    values = [codec.encode(c) for c in commands]
    ids = [command_id(c.partner_id, c.idempotency_key) for c in commands]
    digests = [payload_digest(c) for c in commands]
    book = Book(0, Draft(base_state(accounts)))
    rows = enumerate(zip(commands, ids, digests, strict=True))
    records = [book.settle(c, i, d, n, BOOKED_AT) for n, (c, i, d) in rows]
    bodies = [codec.journal_body(r) for r in records]

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            started = process_time()
            work()
            times.append(process_time() - started)
        return round(min(times) / count * 1e6, 3)

    return {
        "decode_us": best(lambda: [codec.decode(v) for v in values]),
        "command_id_us": best(lambda: [command_id(c.partner_id, c.idempotency_key) for c in commands]),
        "payload_digest_us": best(lambda: [payload_digest(c) for c in commands]),
        "encode_journal_us": best(lambda: [codec.journal_body(r) for r in records]),
        "chain_us": best(lambda: [hashlib.sha256(b).digest() for b in bodies]),
        "command_bytes": sum(map(len, values)) // count,
        "journal_bytes": sum(map(len, bodies)) // count + 37,
    }


def _bytes_per_entry(count: int = 100_000) -> float:
    """What is remembered of a settled transfer beside its key, for those that point back at it."""
    entries = EntryLog()
    legs = Posting("p1:wallet:1", "debit", 1), Posting("p1:wallet:2", "credit", 1)
    entries.add(dict.fromkeys(range(count), (ENTRY, BOOKED_AT, legs, "wallet")))
    return round(entries.memory_bytes / count, 1)


def memory_figures(accounts: int, keys: int) -> dict[str, Any]:
    """Bytes of memory per account with its name in the dict, and per remembered key (settled and while it grows)."""
    names = [f"p{i % 50}/shop-{i % 997}:wallet:{i}" for i in range(accounts)]
    tracemalloc.start()
    held = {}
    for i, name in enumerate(names):
        account = Account.new(name, "liability", "CNY", 0, i)
        account.credits_posted, account.debits_posted = 10**9 + i, 10**8 + i
        held[name] = account
    per_account = tracemalloc.get_traced_memory()[0] / accounts
    tracemalloc.stop()
    index, step, random = KeyIndex(7 * 86_400_000), 10_000, Random(SEED)
    highest = 0.0
    tracemalloc.start()
    for start in range(0, keys, step):
        ids = [random.randbytes(16) for _ in range(step)]
        index.add(ids, [i[:8] for i in ids], range(start, start + step), [BOOKED_AT] * step)
        if start >= keys // 10:
            highest = max(highest, index.memory_bytes / len(index))
    peak = tracemalloc.get_traced_memory()[1] / keys
    tracemalloc.stop()
    assert len(index) == keys
    return {
        "accounts": accounts,
        "bytes_per_account": round(per_account + sum(map(sys.getsizeof, names)) / accounts, 1),
        "keys": keys,
        "bytes_per_key": round(index.memory_bytes / keys, 1),
        "bytes_per_key_at_worst": round(highest, 1),
        "bytes_per_key_peak_with_growth": round(peak, 1),
        "bytes_per_key_max": KEY_BYTES_MAX,
        "bytes_per_settled_transfer": _bytes_per_entry(),
    }


def _before(path: Path) -> Callable[[str, str], str]:
    """What the figure of this part was in the run before, as text to stand beside it."""
    known: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            known[found["part"]] = found

    def was(part: str, name: str) -> str:
        earlier = known.get(part, {}).get(name)
        return f" (was {earlier})" if earlier is not None else ""

    return was


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run bench settle", description=__doc__.splitlines()[0])
    parser.add_argument("--transactions", type=int, default=30_000)
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1_000, help="transactions per draft")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    results = Results("settle", SEED)
    core = settle_figures(options.transactions, options.accounts, options.rounds, options.batch)
    beside = beside_figures(min(options.transactions, 50_000), options.accounts)
    operations = operation_figures(min(options.transactions, 30_000), options.accounts, options.batch)
    terms = terms_figures(min(options.transactions, 30_000), options.accounts, options.batch)
    memory = memory_figures(100_000, options.keys)
    parts = (("core", core), ("operations", operations), ("terms", terms), ("beside", beside), ("memory", memory))
    was = _before(results.path)
    lines = [results.add(part, f) for part, f in parts]
    if options.json:
        print(json.dumps(lines))
    else:
        print(
            f"core    {core['core_us']:.2f} us per transaction; barest loop {core['barest_us']:.2f} us;"
            f" ratio {core['ratio']} (at most {RATIO_MAX:.0f}){was('core', 'ratio')};"
            f" rounds {core['ratio_of_each_round']}\n"
            f"others  hold {operations['hold_us']}{was('operations', 'hold_us')},"
            f" capture {operations['capture_us']}{was('operations', 'capture_us')},"
            f" refund {operations['refund_us']}{was('operations', 'refund_us')} us\n"
            f"terms   plain transfer of a product {terms['shelf_us']}{was('terms', 'shelf_us')},"
            f" with limits at three levels {terms['limits_us']}{was('terms', 'limits_us')},"
            f" split in three with fee and limits {terms['split_us']}{was('terms', 'split_us')},"
            f" exchange {terms['exchange_us']}{was('terms', 'exchange_us')} us\n"
            f"beside  decode {beside['decode_us']:.2f}, id {beside['command_id_us']:.2f},"
            f" digest {beside['payload_digest_us']:.2f}, encode {beside['encode_journal_us']:.2f},"
            f" chain {beside['chain_us']:.2f} us\n"
            f"memory  {memory['bytes_per_account']:.0f} bytes per account; {memory['bytes_per_key']} bytes per key,"
            f" {memory['bytes_per_key_at_worst']} at worst (less than {KEY_BYTES_MAX});"
            f" {memory['bytes_per_settled_transfer']} bytes per settled transfer\n"
            f"kept in {results.path}"
        )
    return 0 if core["ratio"] <= RATIO_MAX and memory["bytes_per_key_at_worst"] < KEY_BYTES_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
