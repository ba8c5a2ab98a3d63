"""The conformance suite: every product of the shelf passes, and a ledger that is wrong in one place does not.

And what `clearline product` answers: with the line of a mistake, with tables and documents, with its exit codes.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clearline import cli
from clearline.commands import product as command
from clearline.conformance import suite
from clearline.product_file import ProductFile, ProductFileError, parse_product, read_product, shelf_files
from ledger import originals, parts, roles, rules, templates
from ledger.book import Book
from ledger.partners import Standing
from ledger.products import WHOLE
from ledger.reasons import Reason
from ledger.state import Draft
from schemas.errors import BadInputError
from schemas.records import ProductState, PublishProduct
from tests.ledger_world import Ledger, admit

SHELF = {f.stem: f for f in shelf_files()}
KINDS = {"transfer", "entry", "hold", "capture", "void", "reversal", "exchange", "refund"}


def loaded(name: str) -> ProductFile:
    return read_product(SHELF[name])


def different(name: str) -> list[str]:
    p = loaded(name)
    return [f"{r.case.operation}: {r.case.name}: {d}" for r in suite.run(p.document, p.text) for d in r.differences]


@pytest.mark.parametrize("name", SHELF)
def test_every_product_of_the_shelf_does_what_its_document_says(name):
    assert different(name) == []


def test_the_shelf_has_twelve_products_that_use_every_kind_and_every_way_to_divide():
    documents = [loaded(name).document for name in SHELF]
    assert len(documents) == 12
    assert {o["kind"] for d in documents for o in d["operations"].values()} == KINDS
    text = json.dumps(documents)
    for word in (
        "tiers",
        "percent",
        "fixed",
        "min",
        "max",
        "equal",
        "named",
        "balance",
        "to_zero",
        "up",
        "down",
        "half_even",
    ):
        assert f'"{word}"' in text, word
    assert sum(bool(d.get("limits")) for d in documents) == 11
    assert all(any(o["kind"] in ("refund", "reversal") for o in d["operations"].values()) for d in documents)
    assert {o.get("fees") for d in documents for o in d["operations"].values() if o["kind"] == "refund"} == {
        None,
        "return",
    }


def test_the_cases_reach_every_refusal_that_a_product_can_give():
    reached = {case.reason for name in SHELF for case in suite.cases(loaded(name).document)}
    never = {
        # Of control commands, of partners' states other than suspended, of freezes, and of what a document does not decide.
        Reason.PARTNER_STATE, Reason.COUNTER_OVERFLOW, Reason.ACCOUNT_EXISTS, Reason.ACCOUNT_NOT_EMPTY, Reason.PARTNER_EXISTS,
        Reason.PARENT_UNKNOWN, Reason.STATE_UNKNOWN, Reason.STATE_TRANSITION, Reason.PARTNER_NOT_EMPTY, Reason.PRODUCT_VERSION,
        Reason.PRODUCT_INVALID, Reason.TEMPLATE_UNBALANCED, Reason.DAY_CLOSED, Reason.DAY_AHEAD, Reason.CROSSING_UNKNOWN,
        Reason.DAY_OPEN, Reason.DAY_SEALED, Reason.WORLD_FROZEN, Reason.PARTNER_FROZEN, Reason.PRODUCT_FROZEN,
        Reason.OWNER_FROZEN,
    }  # fmt: skip
    assert set(Reason) - {Reason(r) for r in reached if r} == never


def test_each_operation_settles_and_is_refused_in_some_case():
    for name in SHELF:
        document = loaded(name).document
        outcomes = {(c.operation, c.outcome) for c in suite.cases(document)}
        assert outcomes >= {(o, outcome) for o in document["operations"] for outcome in ("settled", "rejected")}


# ---- a ledger that is wrong --------------------------------------------------------------------------------------------


def _fee_one_too_high(monkeypatch):
    plain = parts._part
    monkeypatch.setattr(parts, "_part", lambda *a: plain(*a) + 1)


def _half_is_rounded_down(monkeypatch):
    plain = parts._part

    def part(base, percent, rounding):
        exact = 2 * (base * percent % WHOLE) == WHOLE
        return plain(base, percent, "down" if exact else rounding)

    monkeypatch.setattr(parts, "_part", part)


def _tier_ends_one_early(monkeypatch):
    plain = parts.value_of

    def value_of(a, given, step):
        if a.kind == "tiers":
            tiers = tuple((None if up is None else {c: v - 1 for c, v in up.items()}, price) for up, price in a.tiers)
            return plain(type(a)("tiers", of=a.of, tiers=tiers), given, step)
        return plain(a, given, step)

    monkeypatch.setattr(templates, "value_of", value_of)


def _the_odd_units_are_lost(monkeypatch):
    monkeypatch.setattr(templates, "equal_parts", lambda total, number: [total // number] * number)


def _the_last_gets_the_odd_units(monkeypatch):
    plain = parts.equal_parts
    monkeypatch.setattr(templates, "equal_parts", lambda total, number: plain(total, number)[::-1])


def _fees_are_returned_first(monkeypatch):
    plain = parts.shares
    monkeypatch.setattr(templates, "shares", lambda credits, before, amount: plain(credits[::-1], before, amount))


def _anybody_may_ask(monkeypatch):
    monkeypatch.setattr(templates, "_against", lambda t, offer: None)


def _nothing_is_opened(monkeypatch):
    monkeypatch.setattr(templates, "openings_of", lambda *a: {})


def _any_owner_will_do(monkeypatch):
    for module in (rules, roles, templates):
        monkeypatch.setattr(module, "owned", lambda owners, asker, owner: True)


def _frozen_accounts_are_posted_to(monkeypatch):
    plain = rules.check_account

    def check(field, a, *rest, **other):
        found = plain(field, a, *rest, **other)
        return None if found is not None and found.reason == Reason.ACCOUNT_FROZEN else found

    monkeypatch.setattr(rules, "check_account", check)


def _a_refund_may_be_one_more(monkeypatch):
    plain = originals.check_refund
    monkeypatch.setattr(originals, "check_refund", lambda draft, t, offset, paid: plain(draft, t, offset, paid + 1))


def _limits_of_documents_are_ignored(monkeypatch):
    from ledger import limits

    plain = limits.check
    monkeypatch.setattr(limits, "check", lambda draft, t, plan, at, of_document=(): plain(draft, t, plan, at))


def _every_version_is_in_force(monkeypatch):
    plain = Draft.versions

    def versions(self, name):
        from msgspec.structs import replace

        return tuple(replace(row, effective_from=0) for row in plain(self, name))

    monkeypatch.setattr(Draft, "versions", versions)


def _the_value_date_alone_names_the_price(monkeypatch):
    monkeypatch.setattr(Book, "_priced_on", lambda self, value_date: value_date)


def _what_is_below_may_be_taken_in_any_state(monkeypatch):
    plain = Standing.against
    monkeypatch.setattr(
        Standing, "against", lambda self, who, what, below="": None if below else plain(self, who, what)
    )


BUGS: list[tuple[Any, str]] = [
    (_fee_one_too_high, "scan-to-pay"), (_half_is_rounded_down, "scan-to-pay"), (_tier_ends_one_early, "e-account"),
    (_the_odd_units_are_lost, "asset-pool"), (_the_last_gets_the_odd_units, "escrow"), (_fees_are_returned_first, "payment"),
    (_anybody_may_ask, "smart-loan"), (_nothing_is_opened, "e-account"), (_any_owner_will_do, "wallet"),
    (_frozen_accounts_are_posted_to, "wallet"), (_a_refund_may_be_one_more, "escrow"),
    (_limits_of_documents_are_ignored, "deposit"), (_every_version_is_in_force, "treasury"),
    (_the_value_date_alone_names_the_price, "scan-to-pay"), (_what_is_below_may_be_taken_in_any_state, "escrow"),
]  # fmt: skip


@pytest.mark.parametrize(("bug", "name"), BUGS, ids=[b.__name__[1:] for b, _ in BUGS])
def test_a_mistake_put_into_the_ledger_is_found(bug, name, monkeypatch):
    bug(monkeypatch)
    assert different(name)


def test_a_document_that_was_changed_is_not_the_one_that_was_tested():
    """The cases follow the document, the ledger what was published: when they are not the same, it shows."""
    p = loaded("scan-to-pay")
    changed = json.loads(p.text.replace('"percent":"0.6"', '"percent":"0.7"'))
    results = suite.run(changed, p.text)
    assert any("fees" in r.case.name for r in results if r.differences)
    assert {r.case.operation for r in results if r.differences} >= {"pay"}


# ---- files ---------------------------------------------------------------------------------------------------------------

WALLET = SHELF["wallet"].read_text()


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "rule"),
    [
        (
            "{role: recipient}",
            "{role: recipent}",
            15,
            "operations.top_up.steps[0].to[0].role",
            "there is no role recipent",
        ),
        ("amount: amount", "amount: {percent: 0.6}", 15, "operations.top_up.steps[0].amount", 'write percent: "0.6"'),
        ("amount: amount", "amount: 12", 15, "operations.top_up.steps[0].amount", "not 12"),
        ("version: 1", "version: 1.5", 3, "version", "a whole number"),
        ("version: 1", "version: 1\nversion: 2", 4, "version", "stands twice"),
        ("version: 1", "version: [1", 4, "", "is not YAML"),
        ("version: 1", "1: 2", 3, "", "a name is a text"),
        ("version: 1\n", "", 2, "version", "is missing"),
        ("payer: {owner: caller}", "payer: {owner: any}", 20, "operations.withdraw.steps[0].from", "payer is debited"),
        ("    callers: [bank]\n", "    callers: []\n", 13, "operations.top_up.callers", "nobody may call it"),
        ("steps:", "stepps:", 14, "operations.top_up.stepps", "no such key"),
        ("product: wallet", "product: ~", 2, "product", "must be a text"),
        (
            "[{role: recipient}]",
            "[{role: recipient}, {role: payee}]",
            15,
            "operations.top_up.steps[0].to",
            "exactly one target",
        ),
    ],
)
def test_a_mistake_is_answered_with_its_line(old, new, line, path, rule):
    with pytest.raises(ProductFileError) as e:
        parse_product(Path("my.yaml"), WALLET.replace(old, new, 1).encode())
    first = e.value.problems[0]
    assert (first.line, first.path) == (line, path), e.value
    assert rule in first.rule
    assert str(e.value).startswith(f"my.yaml:{line}: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"- 1",
        b"a: &x [*x]",
        b"a: 2026-99-99",
        b"!!python/object:os.system x",
        b"5",
        b"a: {b: {c: [" * 50,
        b"? [1]\n: 2",
    ],
)
def test_junk_is_a_refusal_and_never_an_error(data):
    with pytest.raises(ProductFileError):
        parse_product(Path("my.yaml"), data)


def test_what_is_published_is_canonical():
    p = loaded("escrow")
    assert p.text == json.dumps(json.loads(p.text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert p.lines["roles.payer"] < p.lines["operations.split.steps[0].to[1].amount.max.JPY"]


# ---- the command ---------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return cli.main(["product", *arguments])


def test_test_says_what_came_out_and_exits_0(capsys):
    assert run("test", str(SHELF["data-service"])) == 0
    text = capsys.readouterr().out
    assert "all as expected" in text
    assert "rejected nothing_to_move" in text
    assert run("test", str(SHELF["data-service"]), "--failed", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["different"] == 0
    assert document["products"][0]["cases"] > 150
    assert document["products"][0]["results"] == []


def test_test_exits_1_when_something_came_out_otherwise(capsys, monkeypatch):
    _fee_one_too_high(monkeypatch)
    assert run("test", str(SHELF["scan-to-pay"]), "--failed") == 1
    assert "otherwise" in capsys.readouterr().out
    assert run("test", str(SHELF["scan-to-pay"]), "--failed", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["different"] == len(document["products"][0]["results"]) > 0


def test_an_operation_that_nothing_was_seen_of_is_no_success(capsys, tmp_path):
    """Its own limit lets no amount through, so no case says anything about it."""
    file = tmp_path / "shut.yaml"
    file.write_text(WALLET + "limits:\n  - {window: transaction, currency: CNY, amount_max: 0}\n")
    assert run("test", str(file), "--failed") == 1
    assert "transfer was never seen to settle" in capsys.readouterr().out
    assert run("test", str(file), "--json", "--failed") == 1
    assert "send" in json.loads(capsys.readouterr().out)["products"][0]["never_settled"]


def test_a_file_that_is_no_product_exits_2_with_every_mistake(capsys, tmp_path):
    bad, worse = tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    bad.write_text(WALLET.replace("{role: recipient}", "{role: recipent}", 1))
    worse.write_text("product: [")
    assert run("test", str(bad), str(worse), str(SHELF["wallet"])) == 2
    said = capsys.readouterr().err
    assert f"{bad}:15: operations.top_up.steps[0].to[0].role: there is no role recipent" in said.replace("\n", "")
    assert f"{worse}:1: is not YAML" in said.replace("\n", "")
    assert run("test") == 2
    assert run("test", "--all", str(SHELF["wallet"])) == 2
    assert run("test", str(tmp_path / "none.yaml")) == 2


def test_list_and_show_read_the_files_that_come_with_it(capsys):
    assert run("list", "--files", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["products"]
    assert [r["product"] for r in rows] == sorted(SHELF)
    assert run("show", "scan-to-pay", "--files") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0.6 %, at least 0.01 CNY" in text
    assert "5000.00 CNY per transaction" in text
    assert run("show", "scan-to-pay", "--files", "--json") == 0
    assert json.loads(capsys.readouterr().out) == loaded("scan-to-pay").document
    assert run("show", "nothing", "--files") == 2
    assert run("show", "wallet", "--files", "--version", "7") == 2
    for name in SHELF:
        assert run("show", name, "--files") == 0
        shown = capsys.readouterr().out
        assert all(operation in shown for operation in loaded(name).document["operations"])


def test_the_command_that_is_published_is_taken_by_the_ledger_and_once():
    ledger = Ledger()
    ledger.one(admit("acme"))
    for p in map(read_product, SHELF.values()):
        made = command._command(p, 0, "ann", "first shelf")
        record = ledger.one(made)
        assert (record.outcome, record.changes["digest"]) == ("applied", command._digest(p))
        assert ledger.one(made).outcome == "repeated"
        other = command._command(p, 0, "bob", "first shelf")
        assert ledger.one(other).reason == "product_version"
        assert isinstance(made, PublishProduct)
        assert len(made.idempotency_key) <= 128
    assert len(ledger.base.shelf) == 12


@pytest.mark.parametrize(
    ("effective", "sentence"),
    [("tomorrow", "is not a day"), ("1970-01-01", "after 1970-01-01"), ("2026-02-30", "is not a day")],
)
def test_a_day_that_is_none(effective, sentence, capsys):
    assert run("publish", str(SHELF["wallet"]), "--effective", effective) == 2
    assert sentence in capsys.readouterr().err


def test_publishing_needs_a_system_that_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path))
    assert run("publish", str(SHELF["wallet"])) in (2, 3)
    assert "error:" in capsys.readouterr().err


def test_a_product_file_is_read_and_never_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded("wallet").text = ""  # type: ignore[misc]


class Books:
    """Partitions in memory in place of a running system: what `publish` and `list` ask of one, answered by real Books."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.ledgers = [Ledger(p) for p in range(partitions)]

    def published(self, _: Any) -> dict[tuple[str, int], dict[int, ProductState]]:
        out: dict[tuple[str, int], dict[int, ProductState]] = {}
        for p, ledger in enumerate(self.ledgers):
            for row in ledger.base.rows.values():
                assert isinstance(row, ProductState)
                out.setdefault((row.product, row.version), {})[p] = row
        return out

    def decide(self, _: Any) -> Any:
        def settle(made: PublishProduct) -> str:
            records = [ledger.one(made) for ledger in self.ledgers]
            for r in records:
                if r.outcome == "rejected":
                    raise BadInputError(f"rejected: {r.reason}")
            return "published" if any(r.outcome == "applied" for r in records) else "there already"

        return settle


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    made = Books(3)
    monkeypatch.setattr(command, "live", lambda: made)
    monkeypatch.setattr(command, "_published", made.published)
    monkeypatch.setattr(command, "_given_to", made.decide)
    return made


def publish_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert run("publish", *arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def test_the_whole_shelf_is_published_to_every_partition_and_only_once(books, capsys):
    first = publish_json(capsys, "--all", "--by", "ann", "--note", "first shelf")
    assert [p["outcome"] for p in first["products"]] == ["published"] * 12
    assert all(len(ledger.base.shelf) == 12 for ledger in books.ledgers)
    again = publish_json(capsys, "--all", "--by", "bob")
    assert [p["outcome"] for p in again["products"]] == ["there already"] * 12
    assert run("list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["products"]
    assert {(r["partitions"], r["in_force"], r["effective_from"]) for r in rows} == {("3 of 3", "yes", "at once")}
    assert run("show", "escrow") == 0
    assert "Fund supervision" in capsys.readouterr().out


def test_a_version_that_half_of_the_partitions_have_is_made_whole(books, capsys):
    made = command._command(loaded("wallet"), 0, "ann", "x")
    books.ledgers[0].one(made)
    done = publish_json(capsys, str(SHELF["wallet"]), "--by", "ann", "--note", "x")
    assert done["products"][0]["outcome"] == "published"
    assert all(ledger.base.shelf["wallet"][0].version == 1 for ledger in books.ledgers)


def test_what_the_ledger_refuses_ends_it_and_tells_what_was_done(books, capsys, tmp_path):
    changed = tmp_path / "wallet.yaml"
    changed.write_text(WALLET.replace("E-wallet", "Purse"))
    publish_json(capsys, str(SHELF["wallet"]))
    done = publish_json(capsys, str(SHELF["escrow"]), str(changed), code=2)
    assert [p["product"] for p in done["products"]] == ["escrow"]
    assert "product_version" in done["error"]


def test_a_version_for_a_later_day_is_shown_as_not_in_force(books, capsys):
    publish_json(capsys, str(SHELF["wallet"]), "--effective", "2299-01-01")
    assert run("list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["products"]
    assert (row["effective_from"], row["in_force"]) == ("2299-01-01", "no")


def test_the_shelf_goes_with_the_package():
    root = Path(cli.__file__).resolve().parents[1]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"products": "clearline/products"}
    assert "COPY products products" in (root / "Dockerfile").read_text()
    assert "!products" in (root / ".dockerignore").read_text().splitlines()
