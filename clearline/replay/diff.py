"""The end of a replay: one document of what differs, made of what the partitions found. It holds nothing of when and by
whom it was made, so it is the same bytes however often the replay was killed on its way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import money
from clearline.replay.compare import TRANSACTION, Deltas
from clearline.replay.partition import CONSEQUENT, DIRECT, Result
from clearline.replay.plan import Plan

SHOWN_MAX = 20
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
COLUMNS = (
    "partition", "offset", "id", "partner_id", "key", "product", "operation", "why", "old_outcome", "old_reason",
    "new_outcome", "new_reason",
)  # fmt: skip


def summary_of(plan: Plan, results: Mapping[int, Result], changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a replay found, without the single changes."""
    kinds: Counter[str] = Counter()
    whys: dict[str, set[tuple[int, str]]] = {}
    for c in changes:
        kinds[c["kind"]] += 1
        if c["kind"] == TRANSACTION:
            whys.setdefault(c["why"], set()).add((c["partition"], c["id"]))
    direct = whys.get(DIRECT, set())
    consequent = whys.get(CONSEQUENT, set()) - direct
    deltas = Deltas()
    for r in results.values():
        deltas.merge(r.deltas)
    parts = {str(t.partition): _part(plan, results[t.partition]) for t in plan.tasks}
    return {
        "world": plan.world, "selection": plan.selection.to_dict(),
        "rules": [{"product": r.product, "version": r.version, "sha256": r.digest} for r in plan.rules],
        "unreachable": list(plan.unreachable), "partitions": parts,
        "commands": sum(r.done for r in results.values()), "compared": sum(r.compared for r in results.values()),
        "transactions_changed": len(set().union(*whys.values())), "direct": len(direct),
        "consequent": len(consequent), "drift": sum(r.drift for r in results.values()),
        "records_changed": dict(sorted(kinds.items())),
        "elsewhere": sorted({_transaction(k) for r in results.values() for k in r.elsewhere}),
        "deltas": deltas.rows(), "hash": hash_of(results),
    }  # fmt: skip


def _part(plan: Plan, r: Result) -> dict[str, Any]:
    """Of one partition: where it ended, and whether history's records came out byte for byte.

    `chain_equal` is None where records were written under an older schema, whose bytes nobody can write again.
    """
    equal = r.own_chain == r.chain
    return {
        "next_offset": r.next_offset, "records": r.sequence, "chain": r.chain.hex(), "shadow_chain": r.own_chain.hex(),
        "chain_equal": None if r.older_schema and not equal else equal, "state": r.state, "counts": r.counts,
        "drift": r.drift, "left_dead": r.left_dead,
    }  # fmt: skip


def _transaction(step_key: str) -> str:
    """The transaction that a step belongs to, by the step's key."""
    return step_key.split("/")[1]


def hash_of(results: Mapping[int, Result]) -> str:
    """One number for what the shadow came to: the same log under the same rules has the same."""
    whole = sha256()
    for p, r in sorted(results.items()):
        whole.update(f"{p} {r.next_offset} {r.own_chain.hex()} {r.state}\n".encode())
    return whole.hexdigest()


def differs(summary: Mapping[str, Any]) -> bool:
    """Whether anything differs: an outcome, a balance, or history itself."""
    chains = any(p["chain_equal"] is False for p in summary["partitions"].values())
    return bool(summary["records_changed"] or summary["deltas"] or summary["drift"] or summary["elsewhere"] or chains)


def write_diff(path: Path, summary: Mapping[str, Any], folder: Path, partitions: Sequence[int]) -> str:
    """Writes the whole diff, one change a line; returns its SHA-256 in hex. Nothing is there until all of it is."""
    whole = sha256()
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:

        def put(data: bytes) -> None:
            whole.update(data)
            file.write(data)

        put(b'{"summary":' + orjson.dumps(summary, option=_CANONICAL) + b',\n"changes":[\n')
        comma = b""
        for line in lines_of(folder, partitions):
            put(comma + line)
            comma = b",\n"
        put(b"\n]}\n")
    draft.replace(path)
    return whole.hexdigest()


def lines_of(folder: Path, partitions: Iterable[int]) -> Iterator[bytes]:
    """The changes as they were written, partition after partition, each in the order of its log."""
    for p in sorted(partitions):
        path = folder / f"changes-{p}.jsonl"
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield line.rstrip(b"\n")


def changes_of(folder: Path, partitions: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The changes as values."""
    return (orjson.loads(line) for line in lines_of(folder, partitions))


def row_of(c: Mapping[str, Any]) -> tuple[Any, ...]:
    """A change as the row of a table, in the order of COLUMNS."""
    old, new = c["old"], c["new"]
    return (
        c["partition"], c["offset"], c["id"], c["partner_id"], c["key"], c["product"], c["operation"], c["why"],
        old["outcome"], old.get("reason", ""), new["outcome"], new.get("reason", ""),
    )  # fmt: skip


def shown(run_id: str, summary: Mapping[str, Any], changes: Iterable[Mapping[str, Any]]) -> list[RenderableType]:
    """The diff for people: the first changes and deltas, and how many there are."""
    out: list[RenderableType] = []
    first = [c for _, c in zip(range(SHOWN_MAX), changes, strict=False)]
    if first:
        rows = [
            (f"{c['partition']}:{c['offset']}", c["id"][:16], c["partner_id"], c["key"], c["why"], _worth(c["old"]),
             _worth(c["new"])) for c in first
        ]  # fmt: skip
        out.append(screen.table("changed", ("command", "id", "partner", "key", "why", "was", "would be"), rows))
        records = sum(summary["records_changed"].values())
        if records > len(first):
            out.append(f"... and {records - len(first):,} more: `clearline replay show {run_id} --format csv`")
    if summary["deltas"]:
        out.append("")
        rows = [
            (d["account_id"], d["currency"], *(_signed(d[n], d["currency"]) for n in _FIGURES))
            for d in summary["deltas"][:SHOWN_MAX]
        ]
        named = ("account", "currency", "debits", "credits", "pending debits", "pending credits")
        out.append(screen.table("balances, shadow less history", named, rows, right=named[2:]))
        if len(summary["deltas"]) > SHOWN_MAX:
            out.append(f"... and {len(summary['deltas']) - SHOWN_MAX:,} more accounts")
    return [*out, "", *words(summary)]


_FIGURES = ("debits", "credits", "pending_debits", "pending_credits")


def words(summary: Mapping[str, Any]) -> list[str]:
    """The diff in a few sentences."""
    out = [f"{summary['commands']:,} commands were settled into the shadow, {summary['compared']:,} compared"]
    unequal = [p for p, part in summary["partitions"].items() if part["chain_equal"] is False]
    older = [p for p, part in summary["partitions"].items() if part["chain_equal"] is None]
    if unequal:
        out.append(f"DIFFERS: history itself does not come out again in partitions {', '.join(unequal)}")
    elif not older:
        out.append("history came out byte for byte: every chain head is the journal's")
    if older:
        out.append(f"partitions {', '.join(older)} have records of an older schema: compared by content, not by bytes")
    if summary["rules"]:
        out.append(
            f"under the rules {summary['transactions_changed']:,} transactions come out differently: "
            f"{summary['direct']:,} by the rules alone, {summary['consequent']:,} because of those before them"
        )
    if summary["elsewhere"]:
        out.append(
            f"{len(summary['elsewhere']):,} transactions would send other steps to other partitions than history did; "
            "there the log still has history's, so their end is not known"
        )
    dead = sum(part["left_dead"] for part in summary["partitions"].values())
    if dead:
        out.append(f"{dead:,} commands that died of a schema or a size limit of their time are dead here as well")
    out += [f"was not replayed: {text}" for text in summary["unreachable"]]
    out.append(f"hash of the shadow {summary['hash']}")
    return out


def _worth(outcome: Mapping[str, Any]) -> str:
    """An outcome in a cell."""
    text = str(outcome["outcome"]) + (f" ({outcome['reason']})" if outcome.get("reason") else "")
    sums: Counter[str] = Counter()
    for p in outcome.get("postings", ()):
        if p["side"] == "debit":
            sums[p["currency"]] += p["amount"]
    return " ".join([text, *(f"{money(a, c)} {c}" for c, a in sorted(sums.items()))])


def _signed(amount: int, currency: str) -> str:
    return f"{'+' if amount > 0 else ''}{money(amount, currency)}" if amount else ""
