"""`clearline demo`: everything once, from nothing."""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import AbstractContextManager
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import example, money, turnover
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.demo import Result

RATE = 4_000


def register(app: typer.Typer) -> None:
    app.command("demo", **example("clearline demo --transactions 20000 --seed 7"))(demo)


class _Steps:
    """Steps on stderr with the seconds since the start."""

    def __init__(self, quiet: bool) -> None:
        self._began = time.monotonic()
        self._quiet = quiet
        self.downloads = screen.Downloads()
        self.arrived = screen.Arrivals()

    def step(self, text: str) -> None:
        screen.say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def bar(self, what: str, total: int) -> AbstractContextManager[screen.Bar]:
        return screen.bar(what, total, quiet=self._quiet)


def demo(
    transactions: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many.")] = 100_000,
    rate: Annotated[float, typer.Option(min=0, help="Mean commands a second; 0 is as fast as it goes.")] = RATE,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same day; a new one unless given.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, to look around.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Start everything, settle a realistic day of transactions, prove that the books agree, and stop everything.

    The demo has its own world and data folder (`demo`), emptied at each start; live data is never touched.
    """
    from clearline import demo as play

    if not isfinite(rate):
        raise BadInputError(f"--rate must be a number of commands a second, or 0 for as fast as it goes; not {rate}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whatever runs is stopped then, too
    steps = _Steps(as_json)
    seed = seed or 1 + secrets.randbelow(999_999)
    steps.step(f"clearline demo, seed {seed}")
    result = play.run(steps, transactions=transactions, rate=rate, seed=seed, keep=keep)
    screen.answer(result.to_dict(), as_json, _readable(result))
    if keep:
        folder = os.environ.get("CLEARLINE_DATA_DIR")
        run = f"{f'CLEARLINE_DATA_DIR={result.settings.data_dir} ' if folder else ''}./run --world {play.WORLD}"
        screen.say(f"still running: try `{run} status`, `{run} sql ...`, `{run} verify`; stop it with `{run} down`")
    if not result.ok:
        raise typer.Exit(1)


def _readable(result: Result) -> list[RenderableType]:
    document = result.to_dict()
    latency = document["latency_ms"]
    counted = ", ".join(f"{k} {document[k]:,}" for k in ("settled", "rejected", "repeated", "dead"))
    why = ", ".join(f"{k} {v:,}" for k, v in list(document["reasons"].items())[:8])
    out: list[RenderableType] = [
        "",
        screen.table(
            "Trial balance",
            ("currency", "debits", "credits", "difference"),
            [
                (r["currency"], money(r["debits"], r["currency"]), money(r["credits"], r["currency"]),
                 money(r["debits"] - r["credits"], r["currency"]))
                for r in result.trial_balance
            ],
            right=["debits", "credits", "difference"],
        ),
        "",
        screen.table(
            "Top partners",
            ("partner", "settled", "rejected", "repeated", "turnover"),
            [
                (r["partner_id"], r["settled"], r["rejected"], r["repeated"], turnover(r["turnover"]))
                for r in result.top_partners
            ],
            right=["settled", "rejected", "repeated", "turnover"],
        ),
        "",
        f"seed        {result.seed}",
        f"submitted   {document['submitted']:,}: {counted}",
        f"refusals    {why}",
        f"expected    {'every outcome is the one that the generator foresaw' if document['as_expected'] else 'NO'}",
        f"settled     {document['settled_per_second']:,.0f} a second over {document['seconds']:.1f} s",
        f"latency     p50 {latency['p50']} ms, p99 {latency['p99']} ms, max {latency['max']} ms "
        "(from when a command was due to its committed outcome, read by somebody else)",
        f"tie-out     {tie_line(document['tieout'])}",
        f"books       debits {'equal' if result.balanced else 'DO NOT EQUAL'} credits in every currency",
        f"time        {result.started_s:.1f} s to start, {result.took_s:.1f} s in all",
    ]  # fmt: skip
    if not result.kept_up:
        carried = document["submitted"] / document["seconds"]
        out.append(
            f"note        this machine carried {carried:,.0f} of {result.rate:,.0f} commands a second, "
            f"so latencies are mostly waiting: try --rate {max(100, int(carried / 200) * 100)}"
        )
    return out + [f"UNEXPECTED  {s}" for s in document["unexpected_outcomes"]]


def tie_line(tie: dict[str, Any]) -> str:
    """The tie-out in a line."""
    return ", ".join(f"{part}: {said if isinstance(said, str) else 'DIFFERS'}" for part, said in tie.items())
