"""Every command of the tree says what it does, with an example, its exit codes and --json; what writes can be tried dry.

A new command must be put into one of the three tables below: whoever adds one says whether it changes anything.
"""

from __future__ import annotations

import pytest
import typer

from clearline import cli
from tests.unit.test_cli import commands

TREE = {" ".join(path): command for path, command in commands(typer.main.get_command(cli.build()))}

# They change the ledger, a store, a topic or the brokers, for others than who calls.
WRITES = frozenset({
    "publish", "close", "prepare", "partner admit", "partner suspend", "partner resume", "partner state",
    "account open", "account block", "account unblock", "account freeze", "account unfreeze", "account limit",
    "account close", "freeze account", "freeze partner", "freeze product", "freeze world", "unfreeze account",
    "unfreeze partner", "unfreeze product", "unfreeze world", "limit set", "calendar set", "product publish",
    "key create", "key rotate", "key revoke", "reader add", "reader remove", "recon import", "recon run",
    "recon settle", "recon withdraw", "sandbox join", "sandbox reset", "onboard request", "onboard approve",
    "migrate apply", "access apply", "access block", "access unblock", "backup create", "backup restore", "redis rebuild", "offsets repair", "dlq redrive", "dlq discard",
    "dlq cancel", "webhook redeliver", "replay apply", "replay resume", "replay cancel", "replay drop",
})  # fmt: skip
# They start and stop processes of this machine and write into their own data folder.
PROCESSES = frozenset({"setup", "up", "restart", "down", "demo", "bench"})
# They change nothing; some write the file that their line names.
READS = frozenset({
    "status", "balance", "sql", "tieout", "verify", "offsets show", "receipt", "explain", "asyncapi", "openapi", "partner list",
    "partner show", "account list", "account show", "freeze ls", "access show", "access plan", "limit show",
    "calendar show", "product list", "product show", "product test", "key list", "reader list", "reader show",
    "recon list", "recon show", "recon breaks", "recon export", "onboard show", "migrate plan", "migrate status",
    "backup verify", "report trial-balance", "report statement", "report balances", "report totals", "report flows",
    "report fees", "report holds", "report rejections", "report profitability", "report limits", "report day",
    "report rollup", "report top-partners", "replay plan", "replay ls", "replay show", "dlq ls", "dlq show",
    "dlq export", "webhook ls", "webhook show",
})  # fmt: skip


def help_of(path: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main([*path.split(), "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_every_command_says_whether_it_writes():
    assert set(TREE) == WRITES | PROCESSES | READS
    assert len(WRITES) + len(PROCESSES) + len(READS) == len(TREE), "each stands in one table"


@pytest.mark.parametrize("path", TREE)
def test_help_has_an_example_json_and_the_exit_codes(path: str, capsys: pytest.CaptureFixture[str]):
    text = help_of(path, capsys)
    assert f"Example: clearline {path}" in text
    assert "--json" in text
    assert "Exit codes: 0" in text


@pytest.mark.parametrize("path", sorted(WRITES))
def test_what_writes_can_be_tried_dry(path: str, capsys: pytest.CaptureFixture[str]):
    assert "--dry-run" in help_of(path, capsys)


@pytest.mark.parametrize("path", sorted(READS))
def test_what_only_reads_has_nothing_to_try(path: str):
    assert not any("--dry-run" in p.opts for p in TREE[path].params)
