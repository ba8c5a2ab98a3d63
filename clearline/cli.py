"""The command line: the tree of commands, and the one place where an error becomes a sentence and an exit code.

Exit codes: 0 done, 1 a check found a difference, 2 bad usage or input, 3 a part is unavailable. Each noun has its
module in `clearline.commands`; what a command needs is imported when it runs, so `--help` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from clearline import screen
from clearline.commands import account, bench, demo, dlq, operate, partner, publish, report, stack
from schemas.errors import ClearlineError

EXIT_CODES = "Exit codes: 0 done, 1 the check found a difference, 2 bad usage or input, 3 a part is unavailable."
EXIT_INTERRUPTED = 130


def build() -> typer.Typer:
    """The whole tree of commands."""
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
    for module in (stack, demo, publish, partner, account, report, operate, dlq, bench):
        module.register(app)
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
    try:
        code = build()(args=given, prog_name="clearline", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            return _failed("interrupted", code, as_json)
        return code if isinstance(code, int) else 0
    except ClearlineError as e:
        return _failed(str(e), e.exit_code, as_json)
    except typer.TyperException as e:
        return _failed(_usage(e), 2, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", EXIT_INTERRUPTED, as_json)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        if os.environ.get("CLEARLINE_DEBUG") or "--role" in given:  # a role's stderr is its log
            traceback.print_exc()
        text = f"unexpected {type(e).__name__}: {e}; run it again as `clearline --debug ...` for the traceback"
        return _failed(text, 3, as_json)


def _usage(error: typer.TyperException) -> str:
    """What was typed wrongly, and where to read how it is right."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "clearline"
    text = str(getattr(error, "format_message", lambda: error)()).rstrip(".?").replace(". Did", ", did")
    return f"{text}; see `{where} --help`"


def _failed(sentence: str, exit_code: int, as_json: bool) -> int:
    screen.say(f"error: {sentence}")
    if as_json:
        screen.print_json({"error": sentence, "exit_code": exit_code})
    return exit_code
