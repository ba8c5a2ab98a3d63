"""`clearline demo`: a day of a bank's platform on real parts, measured from outside, and proof that the books agree.

The demo has a world of its own (`demo`: topics, database, keys, and a data folder of its own), which it empties at the
start, so it never touches anybody's live data and shows only what this run made. Everything it claims is computed
from what can be read from outside: outcomes from the journal, figures from ClickHouse, the tie-out by the auditor.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from clearline import detached
from clearline.config import ClickHouseSettings, KafkaSettings, RedisSettings, RegistrySettings, Settings, load_settings
from clearline.connection import connect
from clearline.drive import Drive, Figures
from clearline.embedded.downloads import Progress
from clearline.embedded.folder import DataFolder
from clearline.generator import Item, generate
from clearline.generator_shelf import shelf_of
from clearline.outcomes import OutcomeTail
from schemas.errors import BadInputError

WORLD = "demo"
_OF_ANY_START = {"clearline.json", "owner.lock", "ports.json", "logs", "ready"}  # a start that did not get far
CAUGHT_UP_S = 60.0
PARTNERS_MAX = 90
ACCOUNTS_MAX = 2_400


class Screen(Protocol):
    """What the demo tells while it runs."""

    @property
    def downloads(self) -> Progress:
        """Who is told of downloads."""

    @property
    def arrived(self) -> Callable[[dict[str, Any]], None]:
        """Who is told again and again what has come up."""

    def step(self, text: str) -> None:
        """The next thing has begun."""

    def bar(self, what: str, total: int) -> Any:
        """A context manager that gives something with `to(done)`."""


@dataclass(slots=True)
class Result:
    """What a demo found. Figures count the day's commands; `setup` those that made the world before it."""

    seed: int
    settings: Settings
    setup: Figures
    day: Figures
    tieout: Any
    trial_balance: list[dict[str, Any]]
    top_partners: list[dict[str, Any]]
    started_s: float
    kept: bool = False
    took_s: float = 0.0
    rate: float = 0.0

    @property
    def balanced(self) -> bool:
        """Whether debits equal credits in every currency."""
        return bool(self.trial_balance) and all(r["debits"] == r["credits"] for r in self.trial_balance)

    @property
    def kept_up(self) -> bool:
        """Whether this machine carried the rate that was asked for; if not, latencies are mostly waiting."""
        planned_s = self.day.submitted / self.rate if self.rate else 0.0
        return not planned_s or self.day.seconds < 1.1 * planned_s + 1.0

    @property
    def ok(self) -> bool:
        """Whether the books agree and every outcome was the expected one."""
        return self.balanced and self.tieout.ok and not self.day.surprised and not self.setup.surprised

    def to_dict(self) -> dict[str, Any]:
        day, done = self.day, self.day.outcomes
        tie = self.tieout.to_dict()
        return {
            "seed": self.seed,
            "submitted": day.submitted,
            **{name: done[name] for name in ("settled", "rejected", "repeated", "applied", "dead")},
            "seconds": round(day.seconds, 3),
            "settled_per_second": round(done["settled"] / day.seconds, 1) if day.seconds else 0.0,
            "latency_ms": day.latency_ms(),
            "debits_equal_credits": self.balanced,
            "tieout": tie,
            "as_expected": not (self.day.surprised or self.setup.surprised),
            "unexpected_outcomes": self.setup.surprises + self.day.surprises,
            "reasons": dict(self.day.reasons.most_common()),
            "kept_up_with_rate": self.kept_up,
            "setup": {"submitted": self.setup.submitted, "outcomes": dict(self.setup.outcomes)},
            "trial_balance": self.trial_balance,
            "top_partners": self.top_partners,
            "seconds_to_start": round(self.started_s, 1),
            "seconds_in_all": round(self.took_s, 1),
            "world": self.settings.world,
            "data_dir": str(self.settings.data_dir),
            "kept": self.kept,
        }


def demo_settings() -> Settings:
    """The settings of the demo: as the user's, but in a world of its own and with every part on this machine."""
    own = {
        "kafka": KafkaSettings(), "registry": RegistrySettings(), "clickhouse": ClickHouseSettings(),
        "redis": RedisSettings(),
    }  # fmt: skip
    settings = load_settings(world=WORLD, **own)
    if settings.data_dir.name != WORLD:  # the user names a folder: the demo takes one below it
        settings = load_settings(world=WORLD, data_dir=settings.data_dir / WORLD, **own)
    return settings


def empty_folder(folder: Path) -> None:
    """Removes what an earlier demo left. Raises BadInputError when the folder holds something else."""
    if not folder.exists():
        return
    run = DataFolder(folder).read_run()
    found = {f.name for f in folder.iterdir()}
    if run is None and "clearline.json" in found and found - _OF_ANY_START:
        raise BadInputError(
            f"{folder} does not say whose it is (run.json is missing): if it was a demo's, remove the whole folder; if "
            "not, set CLEARLINE_DATA_DIR to another one"
        )
    if (run or {}).get("world") != WORLD and found - _OF_ANY_START:
        raise BadInputError(f"{folder} holds something that is not a demo: set CLEARLINE_DATA_DIR to another folder")
    shutil.rmtree(folder)


@contextmanager
def running_stack(screen: Screen, settings: Settings, keep: bool) -> Iterator[Settings]:
    """The whole stack, stopped at the end; with `keep` it runs in the background and stays."""
    from clearline.stack import Stack, resolved_settings

    if keep:
        Stack(settings).prepare(screen.downloads)
        detached.start(settings, screen.arrived)
        try:
            yield resolved_settings(settings)
        except BaseException:
            detached.stop(settings)
            raise
        return
    with Stack(settings) as stack:
        stack.prepare(screen.downloads)
        with _told(stack, screen):
            stack.start(roles=True)
        yield stack.resolved()


@contextmanager
def _told(stack: Any, screen: Screen) -> Iterator[None]:
    """Tells what has come up while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            screen.arrived(stack.status())

    watcher = threading.Thread(target=watch, name="arrivals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def run(screen: Screen, *, transactions: int, rate: float, seed: int, keep: bool, day: date | None = None) -> Result:
    """Does it all. `rate`: mean commands a second, 0 for as fast as it goes. Raises ClearlineError."""
    began = time.monotonic()
    settings = demo_settings()
    if detached.running(DataFolder(settings.data_dir)) is not None:
        screen.step("stopping the demo that was kept running")
        detached.stop(settings)
    empty_folder(settings.data_dir)
    screen.step("starting Kafka, schema registry, ClickHouse engine, Valkey, 2 workers and 2 sinks")
    with running_stack(screen, settings, keep) as live:
        started_s = time.monotonic() - began
        screen.step(f"all parts and roles serve after {started_s:.1f} s")
        setup, figures = _publish(screen, live, transactions, rate, seed, day or datetime.now(UTC).date())
        screen.step("waiting until ClickHouse and Redis have everything, then tying out")
        result = _conclude(live, seed, setup, figures, started_s)
        result.kept, result.rate = keep, rate
        if not keep:
            screen.step("stopping everything")
    result.took_s = time.monotonic() - began
    return result


def _publish(
    screen: Screen, settings: Settings, transactions: int, rate: float, seed: int, day: date
) -> tuple[Figures, Figures]:
    """The world, then its day. The world is complete before the first transaction, so that latencies are the day's."""
    system = connect(settings)
    items = generate(
        seed, transactions, partners_max=PARTNERS_MAX, accounts_max=ACCOUNTS_MAX, products=shelf_of(seed),
        day=(day - date(1970, 1, 1)).days,
    )  # fmt: skip
    first: list[Item] = []

    def world() -> Iterator[Item]:
        for item in items:
            if item.kind != "setup":
                first.append(item)
                return
            yield item

    with OutcomeTail(system.kafka, system.topics, system.codec) as tail:
        screen.step(f"making 12 products, up to {PARTNERS_MAX} partners, {ACCOUNTS_MAX:,} accounts from seed {seed}")
        setup = Drive(system, tail).run(world())
        pace = f"{rate:,.0f}/s on average, with the rhythm of a day" if rate else "as fast as it goes"
        screen.step(f"publishing {transactions:,} transactions, {pace}")
        with screen.bar("committed outcomes", transactions) as bar:
            progress: Callable[[int], None] = bar.to
            figures = Drive(system, tail).run(
                chain(first, items), day_s=transactions / rate if rate else 0.0, progress=progress
            )
    return setup, figures


def _conclude(settings: Settings, seed: int, setup: Figures, day: Figures, started_s: float) -> Result:
    """Waits for the sinks, then asks them and the auditor."""
    from clearline.audit.tieout import tieout
    from clearline.connection import clickhouse_config
    from sinks import reports
    from sinks.clickhouse import Database
    from sinks.finance import catalogue
    from sinks.finance.ask import ask_for

    deadline = time.monotonic() + CAUGHT_UP_S
    tie = tieout(settings)
    while not tie.ok and time.monotonic() < deadline:
        time.sleep(0.2)
        tie = tieout(settings)
    config = clickhouse_config(settings)
    with reports.Reports(config) as asked:
        top = asked.top_partners(10).dicts()
    db = Database(config, reader=True)
    try:
        balance = list(ask_for(db, catalogue.report("trial-balance"), {}).dicts())
    finally:
        db.close()
    return Result(seed, settings, setup, day, tie, balance, top, started_s)
