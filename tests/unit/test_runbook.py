"""The runbook is complete and says nothing that does not exist: each incident and each alert has its section, and every
command line in it names commands, options, services and files that are there. tests/integration/test_incidents.py
executes those that are marked so."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from clearline import cli
from clearline.status.incidents import CODES
from tests.runbook import PAGE, blocks, inline_commands, sections

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
# Programs of the system that a line may begin with.
SYSTEM = {
    "chronyc", "curl", "df", "dmesg", "docker", "du", "kill", "ps", "rm", "tail", "timedatectl", "uptime",
}  # fmt: skip
COMPOSE_COMMANDS = {"exec", "logs", "ps", "restart", "run", "stop", "up"}  # of docker-compose 1.29 as well
LINES = sorted({line for _, line in blocks()} | set(inline_commands()))


def test_every_incident_has_its_section() -> None:
    assert set(sections()) == {code.replace("_", "-") for code in CODES}


@pytest.mark.parametrize("code", CODES)
def test_a_section_says_what_is_seen_why_and_when_it_is_over(code: str) -> None:
    text = sections()[code.replace("_", "-")]
    assert re.match(r"\*(Critical|Warning)", text.strip()), "how bad it is comes first"
    for part in ("**Seen**", "**Why**", "**Over when**", "Alert", "```sh"):
        assert part in text, part


@pytest.mark.parametrize("rule", ALERTS, ids=lambda r: r["alert"])
def test_every_alert_leads_to_a_section_that_names_it(rule: dict[str, Any]) -> None:
    code = rule["labels"]["incident"]
    assert code in CODES
    page, anchor = rule["annotations"]["runbook"].split("#")
    assert (page, anchor) == (f"docs/{PAGE.name}", code.replace("_", "-"))
    assert rule["alert"] in re.findall(r"\w+", sections()[anchor])


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_can_be_typed(line: str) -> None:
    words = shlex.split(line.split(" | ")[0])
    if words[0] == "clearline":
        assert_in_the_tree(words[1:])
    elif words[0] == "docker-compose":
        given = {i + 1 for i, w in enumerate(words) if w == "-e"}  # variables
        rest = [w for i, w in enumerate(words) if i not in given and not w.startswith("-") and not w.isdecimal()]
        command, rest = rest[1], rest[2:]
        if "operator" in rest[:-1]:
            assert_in_the_tree(words[words.index("operator") + 1 :])
        assert command in COMPOSE_COMMANDS, line
        named = rest[:1] if command in ("exec", "run") else rest
        assert set(named) <= set(COMPOSE["services"]), line
    else:
        assert words[0] in SYSTEM, line


@cache
def tree() -> Any:
    """The commands; made once, because it takes a moment."""
    return get_command(cli.build())


def assert_in_the_tree(words: list[str]) -> None:
    """The words name a command, options that it has, and as many arguments as it takes."""
    command: Any = tree()
    words = list(words)
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not getattr(command, "no_args_is_help", False) or words, "a group alone does nothing"
    options = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
    arguments = [p for p in command.params if not any(o.startswith("-") for o in p.opts)]
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            given += 1
            continue
        assert word in options, f"{word} is no option of {command.name}"
        if not options[word].is_flag:
            assert words, f"{word} wants a value"
            words.pop(0)
    assert sum(p.required for p in arguments) <= given <= len(arguments), (command.name, given)


def test_links_lead_somewhere() -> None:
    for page in (PAGE,):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.is_file(), target
            if anchor:
                heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
                assert anchor in {_anchor(h) for h in heads}, target


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
