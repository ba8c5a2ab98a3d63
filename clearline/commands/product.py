"""`clearline product`: what is on the shelf, what it does, whether it does so, and how it gets there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import PartlyDoneError, example, live
from clearline.commands.give import ByOption, NoteOption, asked_by
from schemas.errors import BadInputError, ClearlineError

if TYPE_CHECKING:
    from clearline.conformance.suite import Result
    from clearline.connection import Connection
    from clearline.outcomes import Outcome
    from clearline.product_file import ProductFile
    from schemas.records import ProductState, PublishProduct

EPOCH = date(1970, 1, 1)
Files = Annotated[list[Path] | None, typer.Argument(help="YAML files; docs/products.md says what is in them.")]
All = Annotated[bool, typer.Option("--all", help="The whole shelf that comes with Clearline.")]
Supplied = Annotated[bool, typer.Option("--files", help="Of those that come with Clearline, published or not.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="product", help="List, show, test and publish the products of the shelf.",
        epilog="Example: clearline product list",
    )  # fmt: skip
    group.command("list", **example("clearline product list"))(list_)
    group.command("show", **example("clearline product show wallet --version 1"))(show)
    tests = ("clearline product test products/wallet.yaml", "clearline product test --all")
    group.command("test", **example(*tests))(try_)
    shelf = 'clearline product publish --all --note "first shelf"'
    group.command("publish", **example(shelf, "clearline product publish my.yaml --dry-run"))(publish)


def list_(files: Supplied = False, as_json: screen.JsonFlag = False) -> None:
    """All versions of all products that were published, and which one settles today's transactions.

    Exit codes: 0 done, 3 Kafka or the registry is unavailable.
    """
    if files:
        rows = [_row(p.document, 0, "not asked", "") for p in _supplied()]
    else:
        rows = _shelf(live())
    shown = [tuple(", ".join(v) if isinstance(v, list) else v for v in r.values()) for r in rows]
    columns = ("product", "version", "from", "partitions", "in force", "title", "operations")
    parts = [screen.table("", columns, shown, right=["version"]) if rows else "no product is published: see --files"]
    screen.answer({"products": rows}, as_json, parts)


def _row(document: Mapping[str, Any], effective_from: int, partitions: str, in_force: str) -> dict[str, Any]:
    return {
        "product": document["product"], "version": document["version"], "effective_from": _iso(effective_from),
        "partitions": partitions, "in_force": in_force, "title": document.get("title", ""),
        "operations": list(document["operations"]),
    }  # fmt: skip


def _iso(day: int) -> str:
    from ledger.days import iso_date

    return iso_date(day) if day else "at once"


def _published(system: Connection) -> dict[tuple[str, int], dict[int, ProductState]]:
    """Each published version, with the partitions that have it."""
    from clearline.directory import read_directory
    from schemas.records import ProductState

    found: dict[tuple[str, int], dict[int, ProductState]] = defaultdict(dict)
    for partition, rows in read_directory(system).rows.items():
        for row in rows.values():
            if isinstance(row, ProductState):
                found[row.product, row.version][partition] = row
    return found


def _shelf(system: Connection) -> list[dict[str, Any]]:
    import json

    published = _published(system)
    today = (datetime.now(UTC).date() - EPOCH).days
    force = {p: v for (p, v), rows in sorted(published.items()) if _first(rows).effective_from <= today}
    out = []
    for (product, version), rows in sorted(published.items()):
        row = _first(rows)
        where = f"{len(rows)} of {system.partitions}"
        in_force = "yes" if force.get(product) == version else "no"
        out.append(_row(json.loads(row.document), row.effective_from, where, in_force))
    return out


def _first(rows: Mapping[int, ProductState]) -> ProductState:
    return next(iter(rows.values()))


def show(
    name: Annotated[str, typer.Argument(help="The product, such as wallet.")],
    version: Annotated[int, typer.Option(min=0, help="This version; the highest unless given.")] = 0,
    files: Supplied = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """One product: its operations, roles, prices and limits in words; with --json its document.

    Exit codes: 0 done, 2 there is no such product or version, 3 Kafka or the registry is unavailable.
    """
    from clearline.product_text import limit_text, operation_text, role_text

    document = _document(name, version, files)
    operations = [
        (n, o["kind"], ", ".join(o.get("callers", ["partner"])), operation_text(o))
        for n, o in document["operations"].items()
    ]
    roles = [(n, role_text(r)) for n, r in document.get("roles", {}).items()]
    limits = [limit_text(x) for x in document.get("limits", [])]
    parts: list[Any] = [
        f"{name}, version {document['version']}: {document.get('title', '')}",
        f"currencies: {', '.join(document.get('currencies', [])) or 'every one'}",
        screen.table("", ("operation", "kind", "asked by", "does"), operations),
        screen.table("", ("role", "whose account"), roles),
        f"limits: {'; '.join(limits) or 'none of its own'}",
    ]
    screen.answer(document, as_json, parts)


def _document(name: str, version: int, files: bool) -> dict[str, Any]:
    import json

    if files:
        found = {(p.product, p.version): p.document for p in _supplied()}
    else:
        found = {key: json.loads(_first(rows).document) for key, rows in _published(live()).items()}
    versions = [v for p, v in found if p == name]
    if not versions:
        raise BadInputError(f"there is no product {name}; see `clearline product list{' --files' if files else ''}`")
    wanted = version or max(versions)
    if wanted not in versions:
        raise BadInputError(f"{name} has no version {wanted}; it has {', '.join(map(str, sorted(versions)))}")
    return found[name, wanted]


def _supplied() -> list[ProductFile]:
    from clearline.product_file import read_product, shelf_files

    return [read_product(f) for f in shelf_files()]


def _given(files: Sequence[Path] | None, all_: bool) -> list[ProductFile]:
    """The products that were named. All files are read before anything is done with the first."""
    from clearline.product_file import read_product

    if bool(files) == all_:
        raise BadInputError("name FILEs, or --all for the whole shelf")
    if all_:
        return _supplied()
    problems, out = [], []
    for file in files or ():
        try:
            out.append(read_product(file))
        except BadInputError as e:
            problems.append(str(e))
    if problems:
        raise BadInputError("; ".join(problems))
    return out


def try_(
    files: Files = None,
    all_: All = False,
    failed_only: Annotated[bool, typer.Option("--failed", help="Show only what came out otherwise.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Try every operation, refusal and price boundary of a product, made from its document, on a ledger in memory.

    Nothing needs to run. What must come out is worked out apart from the ledger, with fractions. Exit codes: 0 all came
    out as it must, 1 something did not, 2 a file is no product.
    """
    from clearline.conformance.suite import never_settled, run

    documents, parts, failed = [], [], 0
    for product in _given(files, all_):
        results = run(product.document, product.text)
        never = never_settled(product.document, results)
        wrong = sum(bool(r.differences) for r in results) + len(never)
        failed += wrong
        shown = [r for r in results if r.differences or not failed_only]
        documents.append(
            {"product": product.product, "version": product.version, "cases": len(results), "different": wrong,
             "never_settled": never, "results": [_result(r) for r in shown]}
        )  # fmt: skip
        if shown:
            parts.append(_grid(product, shown))
        state = "all as expected" if not wrong else f"{wrong} otherwise"
        parts += [f"{product.product} {product.version}: {n} was never seen to settle, with any amount" for n in never]
        parts.append(f"{product.product} {product.version}: {len(results)} cases, {state}")
    screen.answer({"products": documents, "different": failed}, as_json, parts)
    if failed:
        raise typer.Exit(1)


def _result(r: Result) -> dict[str, Any]:
    c = r.case
    return {
        "operation": c.operation, "case": c.name, "amount": c.command.amount, "currency": c.command.currency,
        "outcome": r.outcome, "reason": r.reason, "fee": r.fee, "before": dict(r.before), "after": dict(r.after),
        "expected": {"outcome": c.outcome, "reason": c.reason, "legs": [list(leg) for leg in c.legs]},
        "legs": [list(leg) for leg in r.legs], "differences": list(r.differences),
    }  # fmt: skip


def _grid(product: ProductFile, results: Sequence[Result]) -> Any:
    """A table that a finance person can read: what was asked, what became of it, who has what afterwards."""
    from clearline.commands.common import money

    rows = []
    for r in results:
        currency = r.case.command.currency
        amount = money(r.case.command.amount, currency) if r.case.command.amount else ""
        fee = money(r.fee, currency) if r.fee else ""
        outcome = f"{r.outcome} {r.reason}".strip()
        verdict = "; ".join(r.differences) or "ok"
        rows.append((r.case.operation, r.case.name, amount, _changes(r), fee, outcome, verdict))
    columns = ("operation", "case", "amount", "before -> after", "fee", "outcome", "")
    title = f"{product.product} {product.version}: {product.document.get('title', '')}"
    return screen.table(title, columns, rows, right=["amount", "fee"])


def _changes(r: Result) -> str:
    from clearline.commands.common import money

    currencies = {a.account_id: a.currency for a in r.case.accounts}
    moved = [a for a in r.before if r.before[a] != r.after[a]]
    return "; ".join(
        f"{a} {money(r.before[a] or 0, currencies[a])} -> {money(r.after[a] or 0, currencies[a])}" for a in moved
    )


def publish(
    files: Files = None,
    all_: All = False,
    effective: Annotated[
        str, typer.Option(metavar="YYYY-MM-DD", help="First value date that is settled under it; at once unless given.")
    ] = "",
    by: ByOption = "",
    note: NoteOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of it now; publish nothing.")
    ] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Put versions of products on the shelf of every partition. What is there already, unchanged, stays as it is.

    Exit codes: 0 done, 2 a file is no product or the ledger refused it, 3 a part is unavailable.
    """
    products, day = _given(files, all_), _day(effective)
    system = live()
    published = _published(system)
    decide = _foreseen(system) if dry_run else _given_to(system)
    done: list[dict[str, Any]] = []
    for p in products:
        row = {"product": p.product, "version": p.version, "effective_from": _iso(day), "digest": _digest(p)}
        there = published.get((p.product, p.version), {})
        same = all(r.document == p.text and r.effective_from == day for r in there.values())
        if same and len(there) == system.partitions:
            done.append({**row, "outcome": "there already"})
            continue
        try:
            outcome = decide(_command(p, day, asked_by(by), note))
        except ClearlineError as e:
            raise PartlyDoneError(e, {"products": done, "dry_run": dry_run}) from None
        done.append({**row, "outcome": outcome})
    text = [f"{r['product']} {r['version']}: {r['outcome']}, in force from {r['effective_from']}" for r in done]
    remark = ["nothing was published: this was a dry run"] if dry_run else []
    screen.answer({"products": done, "dry_run": dry_run}, as_json, [*text, *remark])


def _day(effective: str) -> int:
    if not effective:
        return 0
    try:
        day = (date.fromisoformat(effective) - EPOCH).days
    except ValueError:
        raise BadInputError(f"--effective {effective} is not a day; write YYYY-MM-DD") from None
    if day < 1:
        raise BadInputError("--effective is a day after 1970-01-01")
    return day


def _digest(p: ProductFile) -> str:
    return sha256(p.text.encode()).hexdigest()


def _command(p: ProductFile, day: int, by: str, note: str) -> PublishProduct:
    """The command; the same one again has the same key, so that half of the partitions can be made whole."""
    from schemas.identity import BANK
    from schemas.records import PublishProduct

    what = "\0".join((p.text, str(day), by, note)).encode()
    key = f"publish-{p.product}-{p.version}-{blake2b(what, digest_size=8).hexdigest()}"
    return PublishProduct(BANK, key, p.product, p.version, day, p.text, by, note)


def _given_to(system: Connection) -> Callable[[PublishProduct], str]:
    from clearline.control import give

    def decide(command: PublishProduct) -> str:
        outcomes = {o.outcome for o in give(system, command)}
        return "published" if "applied" in outcomes else "there already"

    return decide


def _foreseen(system: Connection) -> Callable[[PublishProduct], str]:
    from clearline.config import load_settings
    from clearline.control import RejectedError
    from clearline.foresight import Foresight

    outcome_of = Foresight(system, load_settings().settlement.keys_window_ms).outcome

    def decide(command: PublishProduct) -> str:
        found: Outcome = outcome_of(command)
        if found.outcome == "rejected":
            raise RejectedError(f"PublishProduct {command.product} {command.version}", found)
        return "would be published" if found.outcome == "applied" else "there already"

    return decide
