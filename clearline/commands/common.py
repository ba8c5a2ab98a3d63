"""What the commands share: settings of the running system, and examples in their help."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from schemas.errors import ClearlineError

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.connection import Connection

EXIT_CODES = "Exit codes: 0 done, 1 the check found a difference, 2 bad usage or input, 3 a part is unavailable."


class PartlyDoneError(ClearlineError):
    """A command that ended early. It ends as its `cause` does, with what was done until then beside the error."""

    def __init__(self, cause: BaseException, document: Mapping[str, Any]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.document = document


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does for as long as the block runs, so that it cleans up as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _WithExitCodes(TyperCommand):
    """A command whose help ends in what its exit codes mean, unless it says so itself."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        super().format_epilog(ctx, formatter)
        if "Exit codes:" not in (self.help or ""):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(EXIT_CODES)


def example(*lines: str) -> dict[str, Any]:
    """Keyword arguments of a command: its example, shown below its options with its exit codes."""
    return {"epilog": "Example: " + "  |  ".join(lines), "no_args_is_help": False, "cls": _WithExitCodes}


def looks_only(what: str) -> Any:
    """The option --dry-run of a command that is not the ledger's to judge. `what`: what is said instead."""
    return typer.Option("--dry-run", help=f"{what}; change nothing.")


def live_settings() -> Settings:
    """Settings with all addresses, those of the embedded stack included. Raises ClearlineError when nothing runs."""
    from clearline.config import load_settings
    from clearline.stack import resolved_settings

    return resolved_settings(load_settings())


def live(*records: str) -> Connection:
    """A connection to the running system. `records`: the only ones that are written and read, where that is known."""
    from clearline.connection import connect

    return connect(live_settings(), records)


def money(amount: int, currency: str) -> str:
    """Minor units for people, with thousands: 1255000 CNY -> 12,550.00."""
    from ledger.money import EXPONENTS, format_minor

    if currency not in EXPONENTS:
        return f"{amount:,}"
    whole, dot, rest = format_minor(amount, currency).partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{dot}{rest}"


def turnover(by_currency: Mapping[str, int]) -> str:
    """Amounts in several currencies, such as `12,550.00 CNY, 300 JPY`."""
    return ", ".join(f"{money(amount, currency)} {currency}" for currency, amount in sorted(by_currency.items()))
