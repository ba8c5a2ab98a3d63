"""The command line: the tree of commands, and the one place where an error becomes a sentence and an exit code.

Exit codes: 0 done, 1 a check found a difference, 2 bad usage or input, 3 a part is unavailable. Each noun has its
module in `clearline.commands`; what a command needs is imported when it runs, so `--help` is quick.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import typer

from clearline import commands, redaction, screen
from clearline.commands.common import EXIT_CODES, PartlyDoneError
from schemas.errors import ClearlineError

EXIT_INTERRUPTED = 130
# The modules of `clearline.commands`, in the order of the help.
_MODULES = (
    "stack", "status", "demo", "publish", "partner", "account", "freeze", "access", "limit", "calendar", "close",
    "product", "key", "reader", "recon", "sandbox", "onboard", "migrate", "prepare", "backup", "report", "operate",
    "offsets", "replay", "receipt", "explain", "dlq", "webhook", "document", "bench",
)  # fmt: skip
# Commands that begin without what all the others import, and the module of each: money moves until they have begun.
_IN_A_HURRY = {"freeze": "freeze", "unfreeze": "freeze"}


def build(only: str = "") -> typer.Typer:
    """The whole tree of commands; of one that somebody is in a hurry for, only what it needs."""
    app = typer.Typer(
        name="clearline",
        help="The transaction backbone of an open-banking platform: Kafka in, double entry, ClickHouse and Redis out.",
        epilog=f"Example: clearline demo. {EXIT_CODES}",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_settings)
    for module in _MODULES if only not in _IN_A_HURRY else (_IN_A_HURRY[only],):
        importlib.import_module(f"{commands.__name__}.{module}").register(app)
    return app


def _settings(
    world: Annotated[
        str, typer.Option(help="World to work in, such as live, sandbox or demo; the same as CLEARLINE_WORLD=NAME.")
    ] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    if world:
        os.environ["CLEARLINE_WORLD"] = world
    if debug:
        os.environ["CLEARLINE_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Errors are one sentence on stderr, and a document with `--json`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    if not sys.warnoptions and "--debug" not in given:
        warnings.showwarning = lambda *_: None  # libraries' deprecations are no news for whoever runs a command
    if not {"--debug", "--role"} & set(given):
        logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
    try:
        noun = _noun(given)
        tree = _tree(noun if noun in _IN_A_HURRY else "")
        code = tree(args=given, prog_name="clearline", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            return _failed("interrupted", code, as_json)
        return code if isinstance(code, int) else 0
    except SystemExit as e:
        return _ended(e)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PartlyDoneError as e:
        sentence, code = _told(e.cause, given)
        return _failed(sentence, code, as_json, e.document)
    except (Exception, KeyboardInterrupt) as e:
        sentence, code = _told(e, given)
        return _failed(sentence, code, as_json)


@cache
def _tree(only: str) -> typer.core.TyperGroup:
    """The commands in the form that runs them. One process may run several: tests do, one after another."""
    return typer.main.get_group(build(only))


def _noun(given: Sequence[str]) -> str:
    """The first word that is no option of the program itself."""
    words = iter(given)
    for word in words:
        if word == "--world":
            next(words, "")
        elif not word.startswith("-"):
            return word
    return ""


def _ended(end: SystemExit) -> int:
    """The exit code of what ended the process itself: rich does when nobody reads its output any more."""
    if isinstance(end.__context__, BrokenPipeError):
        return 0
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def _told(error: BaseException, given: Sequence[str]) -> tuple[str, int]:
    """An error's sentence and exit code."""
    if isinstance(error, ClearlineError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage(error), 2
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted", EXIT_INTERRUPTED
    if os.environ.get("CLEARLINE_DEBUG") or "--role" in given:  # a role's stderr is its log
        redaction.print_exception(error)
    text = f"unexpected {type(error).__name__}: {error}; run it again as `clearline --debug ...` for the traceback"
    return text, 3


def _usage(error: typer.TyperException) -> str:
    """What was typed wrongly, and where to read how it is right."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "clearline"
    text = str(getattr(error, "format_message", lambda: error)()).rstrip(".?").replace(". Did", ", did")
    return f"{text}; see `{where} --help`"


def _failed(sentence: str, exit_code: int, as_json: bool, done: Mapping[str, Any] | None = None) -> int:
    sentence = redaction.hide(sentence)
    screen.say(f"error: {sentence}")
    if as_json:
        screen.print_json({**(done or {}), "error": sentence, "exit_code": exit_code})
    return exit_code
