"""The command line's promises: help with an example and `--json` everywhere, one document on stdout, exit codes."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from clickhouse_driver import errors

from clearline import cli
from clearline.deadletters import REASONS
from clearline.demo import empty_folder
from clearline.generator import DAMAGES
from clearline.stack import python_path
from schemas.errors import BadInputError, ClearlineError, PartUnavailableError
from sinks.clickhouse import ClickHouseConfig, Database
from streams.topics import TopicMismatchError

ROOT = Path(__file__).resolve().parents[2]

GOOD = {
    "partner_id": "acme", "idempotency_key": "o-1", "product": "wallet", "operation": "transfer", "amount": 12550,
    "currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own: no settings file, no running stack, nobody's home."""
    monkeypatch.chdir(tmp_path)
    for name in ("CLEARLINE_WORLD", "CLEARLINE_CONFIG", "CLEARLINE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path / "data"))


def nobody_listens() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings that name parts which do not answer."""
    address = f"127.0.0.1:{nobody_listens()}"
    monkeypatch.setenv("CLEARLINE_KAFKA__BOOTSTRAP", address)
    monkeypatch.setenv("CLEARLINE_REGISTRY__URL", f"http://{address}")
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__HOST", "127.0.0.1")
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__PORT", address.partition(":")[2])
    monkeypatch.setenv("CLEARLINE_REDIS__URL", f"redis://{address}/0")
    return address


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


TREE = dict(commands(typer.main.get_command(cli.build())))


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on stdout."""
    return json.loads(capsys.readouterr().out)


def test_the_tree_has_what_the_design_names():
    names = {" ".join(path) for path in TREE}
    assert names >= {
        "setup", "up", "down", "status", "demo", "publish", "balance", "sql", "tieout", "verify", "receipt", "bench",
        "partner list", "partner show", "partner admit", "partner suspend", "partner resume",
        "account list", "account show", "account open", "account block", "account unblock", "account limit",
        "account close", "account freeze", "account unfreeze", "partner state", "limit show", "limit set",
        "product list", "product show", "product test", "product publish", "calendar show", "calendar set", "close", "report trial-balance", "report statement", "report totals", "report top-partners", "report rollup",
        "dlq ls", "dlq show", "redis rebuild", "key create", "key list", "key rotate", "key revoke",
        "webhook ls", "webhook show", "webhook redeliver",
    }  # fmt: skip


@pytest.mark.parametrize("noun", ["freeze", "unfreeze"])
def test_who_is_in_a_hurry_gets_the_same_commands_without_the_others(noun: str, capsys: pytest.CaptureFixture[str]):
    few = dict(commands(typer.main.get_command(cli.build(noun))))
    assert {path for path in few if path[0] == noun} == {path for path in TREE if path[0] == noun}
    assert len(few) < 12
    assert run("--world", "elsewhere", noun, "--help") == 0
    assert "account" in capsys.readouterr().out
    code = "import sys; from clearline import cli; cli.main(sys.argv[1:]); print(*sys.modules)"
    command, env = [sys.executable, "-c", code, "--debug", noun, "--help"], {**os.environ, **python_path()}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    loaded = set(done.stdout.split("freeze", 1)[1].split())
    assert {"clearline.commands.freeze", "typer"} <= loaded
    assert not {"clearline.commands.replay", "rich.console", "numpy", "httpx"} & loaded


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(path, capsys):
    assert run(*path, "--help") == 0
    text = capsys.readouterr().out
    assert f"Example: clearline {' '.join(path)}" in " ".join(text.split())
    assert "--json" in text
    what = (TREE[path].help or "").strip()
    assert len(what.splitlines()[0]) > 20, "the first line of the help says what the command does"


def test_the_examples_in_the_help_can_be_parsed(capsys):
    """Each example is run with nothing to talk to: it may fail for that, never for its own form."""
    for path, command in TREE.items():
        if path in {("setup",), ("up",), ("demo",), ("bench",), ("down",)}:
            continue  # these would do something
        for example in str(command.epilog).removeprefix("Example: ").split("  |  "):
            arguments = shlex.split(example)[1:]
            code = run(*arguments)
            said = capsys.readouterr().err
            assert code in (0, 2, 3), example
            assert "No such option" not in said, example
            assert "Missing" not in said, example
            assert "unexpected" not in said, (example, said)


def test_help_and_no_command_show_the_tree(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert "publish" in text
    assert "Exit codes: 0 done, 1 the check found a difference" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["publis"], "did you mean 'publish'"),
        (["publish"], "Missing argument"),
        (["publish", "x", "--rat", "1"], "No such option: --rat"),
        (["publish", "x", "--rate", "fast"], "--rate"),
        (["publish", "x", "--rate", "-1"], "--rate"),
        (["publish", "x", "--rate", "inf"], "--rate must be a number of commands a second"),
        (["publish", "x", "--rate", "nan"], "--rate"),
        (["account", "limit", "acme:a", "much"], "whole number of minor units, or none"),
        (["account", "open", "acme", "--currency", "CNY"], "account_id: must be owner partner, colon"),
        (["account", "open", "acme:a", "--currency", "cny"], "currency: must be in capital letters"),
        (["account", "open", "acme:a", "--currency", "CNY", "--type", "wallet"], "type: must be"),
        (["partner", "admit", "Acme"], "subject_id: must be a path"),
        (["partner", "suspend", "acme"], "Missing option '--note'"),
        (["partner", "state", "acme", "gone", "--note", "x"], "state: must be"),
        (["account", "freeze", "acme:a"], "Missing option '--note'"),
        (["account", "open", "acme:a", "--currency", "CNY", "--credit-limit", "-1"], "--credit-limit"),
        (["limit", "set", "partner", "acme", "daily=5"], "'daily=5' is not a limit"),
        (["limit", "set", "partner", "acme", "week:count=5"], "limits[0].window: must be"),
        (["limit", "set", "partner", "acme", "day:amount=5"], "limits[0].currency: is missing"),
        (["limit", "set", "partner", "acme", "day:CNY:amount=5", "day:CNY:amount=6"], "two limits of its amount"),
        (["limit", "show", "shop", "acme"], "the level is partner, account or product"),
        (["calendar", "set", "bank", "--zone", "Mars/Olympus"], "is not an IANA time zone"),
        (["calendar", "set", "bank", "--zone", "UTC", "--closed", "caturday"], "closed_weekdays[0]: must be"),
        (["close", "2026-02-30"], "not a day of the calendar"),
        (["dlq", "ls", "--reason", "nosuch"], "reasons are contract, empty, not_framed, too_large"),
        (["bench", "nothing-like-it"], "there is no benchmark nothing-like-it"),
        (["up", "--role", "cook"], "cook is not a role; roles are worker"),
        (["up", "--role", "worker", "--slot", "99"], "slot 99 does not exist"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(arguments, words, capsys):
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert run(*arguments, "--json") == 2
    assert document(capsys)["exit_code"] == 2


def test_a_wrong_setting_is_named(monkeypatch, capsys):
    monkeypatch.setenv("CLEARLINE_PARTITIONS", "many")
    assert run("status") == 2
    assert "partitions (CLEARLINE_PARTITIONS) is 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["partner", "list"], ["account", "list"], ["dlq", "ls"], ["dlq", "show", "0:0"], ["webhook", "ls"],
        ["balance", "acme:wallet:alice"], ["report", "trial-balance"], ["sql", "SELECT 1"], ["tieout"], ["verify"], ["receipt", "acme", "o-1"],
        ["account", "close", "acme:wallet:alice"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_without_a_running_stack_the_next_step_is_told(arguments, capsys):
    assert run(*arguments) == 3
    out = capsys.readouterr()
    assert "./run up" in out.err + out.out
    assert run(*arguments, "--json") == 3
    document(capsys)


def test_down_with_nothing_running_is_done(capsys):
    assert run("down", "--json") == 0
    assert document(capsys)["stopped"] is False


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


def test_a_broker_that_is_not_there_is_told_within_seconds(unreachable, tmp_path, capsys):
    assert run("publish", write(tmp_path / "a.jsonl", GOOD)) == 3
    said = capsys.readouterr().err
    assert f"Kafka at {unreachable} does not answer" in said
    assert "./run up" in said


def test_check_says_line_field_and_rule_and_keeps_the_refused_lines(tmp_path, capsys):
    file = write(
        tmp_path / "orders.jsonl", GOOD, "", {**GOOD, "amount": 1.5}, "{", {**GOOD, "currency": "XXX", "foo": 1}
    )
    assert run("publish", file, "--check") == 2
    out = capsys.readouterr().out
    assert "1 of 4 lines right" in out
    kept = [json.loads(line) for line in (tmp_path / "orders.refused.jsonl").read_text().splitlines()]
    assert [(k["line"], [e["field"] for e in k["errors"]]) for k in kept] == [
        (3, ["amount"]), (4, [""]), (5, ["currency", "foo"]),
    ]  # fmt: skip
    assert json.loads(kept[0]["text"])["amount"] == 1.5

    assert run("publish", file, "--check", "--json") == 2
    report = document(capsys)
    assert (report["lines"], report["refused"], report["published"]) == (4, 3, 0)
    assert report["refusals"][0]["line"] == 3
    assert report["refused_file"].endswith("orders.refused.jsonl")

    write(tmp_path / "orders.jsonl", GOOD)
    assert run("publish", file, "--check") == 0
    assert len((tmp_path / "orders.refused.jsonl").read_text().splitlines()) == 3, "a check removes nothing"


def test_a_file_of_only_bad_lines_needs_no_broker(unreachable, tmp_path, capsys):
    assert run("publish", write(tmp_path / "a.jsonl", {**GOOD, "amount": 0})) == 2
    assert "does not answer" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff"])
def test_an_empty_file_is_bad_input(content, tmp_path, capsys):
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    assert run("publish", str(path)) == 2
    assert f"{path} is empty" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path, capsys):
    assert run("publish", str(tmp_path / "nowhere.jsonl")) == 2
    assert "no such file or directory" in capsys.readouterr().err
    assert run("publish", str(tmp_path)) == 2
    assert "is a directory" in capsys.readouterr().err


def test_standard_input_is_read_too(monkeypatch, tmp_path, capsys):
    lines = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\xff\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert run("publish", "-", "--check") == 2
    out = capsys.readouterr().out
    assert "1 of 2 lines right" in out
    assert "is not UTF-8 at byte 1" in out
    assert (tmp_path / "stdin.refused.jsonl").exists()


def test_where_the_refused_lines_cannot_be_kept_is_told(tmp_path, capsys):
    file = write(tmp_path / "a.jsonl", {**GOOD, "amount": 0})
    (tmp_path / "a.refused.jsonl").mkdir()
    assert run("publish", file, "--check") == 2
    assert "refused lines cannot be written" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_difference(tmp_path):
    """`clearline status | head -1`: rich ends the process with 1 then, and 1 is for checks."""
    program = (
        "import sys\nfrom clearline import cli, screen\n"
        "import clearline.config\n"
        "def much(**_):\n    screen.answer({}, False, ['x' * 99] * 9_999)\n    return None\n"
        "clearline.config.load_settings = much\n"
        "sys.exit(cli.main(['status']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (0, b"")


def test_sigterm_while_the_stack_comes_up_cleans_up_as_ctrl_c_does(monkeypatch, tmp_path):
    ended = []

    def start(_settings: Any, _progress: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt:
            ended.append("cleaned up")
            raise

    monkeypatch.setattr("clearline.stack.Stack.prepare", lambda *_: None)
    monkeypatch.setattr("clearline.detached.start", start)
    mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # without the mend it would end the tests
    before = signal.getsignal(signal.SIGTERM)
    assert run("up") == 130
    assert ended == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGTERM, mine)


def test_a_query_of_somebodys_own_is_refused_in_the_servers_words():
    db = Database(ClickHouseConfig("127.0.0.1", 1, "d"), reader=True)

    def translated(code: int, text: str, typed: bool) -> ClearlineError:
        return db._translated(errors.ServerException(f"DB::Exception: {text}. Stack trace: 0. x", code), typed)

    for code in (47, 60, 1, 48, 12_345):
        found = translated(code, "Unknown expression identifier `nosuch`", True)
        assert isinstance(found, BadInputError)
        assert str(found) == "ClickHouse refuses the query: Unknown expression identifier `nosuch`"
    assert isinstance(translated(241, "memory", True), PartUnavailableError)
    assert "./run setup" in str(translated(47, "x", False))


@pytest.mark.parametrize("command", ["verify", "tieout"])
def test_another_number_of_partitions_is_refused_as_publish_does(command, monkeypatch, unreachable, capsys):
    def mismatch(*_: object) -> None:
        raise TopicMismatchError("topic live.journal has 4 partitions, the settings say 6")

    monkeypatch.setattr("clearline.connection.check_topics", mismatch)
    assert run(command) == 2
    assert "has 4 partitions, the settings say 6" in capsys.readouterr().err


def test_the_drivers_own_log_does_not_speak_beside_our_sentence(unreachable):
    assert run("sql", "SELECT 1") == 3
    assert not logging.getLogger("clickhouse_driver.connection").isEnabledFor(logging.WARNING)


def test_a_demos_folder_without_its_run_is_told_apart_from_a_strangers(tmp_path):
    folder = tmp_path / "data" / "demo"
    folder.mkdir(parents=True)
    (folder / "kafka").mkdir()
    with pytest.raises(BadInputError, match="holds something that is not a demo"):
        empty_folder(folder)
    (folder / "clearline.json").write_text('{"format": 1}')
    with pytest.raises(BadInputError, match="if it was a demo's, remove the whole folder"):
        empty_folder(folder)


def test_an_interrupt_is_a_sentence_and_130(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clearline.config.load_settings", interrupted)
    assert run("status", "--json") == 130
    out = capsys.readouterr()
    assert "error: interrupted" in out.err
    assert json.loads(out.out)["exit_code"] == 130


def test_an_unexpected_error_is_a_sentence_too(monkeypatch, capsys):
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("clearline.config.load_settings", broken)
    assert run("status", "--json") == 3
    out = capsys.readouterr()
    assert "unexpected RuntimeError: boom" in out.err
    assert json.loads(out.out)["exit_code"] == 3
    assert run("--debug", "status") == 3
    assert "Traceback" in capsys.readouterr().err


def test_the_reasons_of_dead_letters_are_those_that_the_generator_makes():
    assert set(REASONS) == set(DAMAGES)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [([], "give PARTNER and KEY, or --id"), (["acme"], "give PARTNER and KEY, or --id"),
     (["acme", "o-1", "--id", "ab" * 16], "not both"), (["--id", "abc"], "32 hexadecimal digits")],
)  # fmt: skip
def test_a_receipt_is_asked_for_by_key_or_by_id(arguments, what, capsys):
    assert cli.main(["receipt", *arguments]) == 2
    assert what in capsys.readouterr().err
