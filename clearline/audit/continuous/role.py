"""The role `tieout`: one machine, fed without end, and its last word in the ready file, the metrics and the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog
from prometheus_client.registry import Collector

from clearline.audit.continuous import metrics
from clearline.audit.continuous.difference import PARTS, Verdict
from clearline.audit.continuous.machine import Machine, Options, Word
from clearline.audit.continuous.shards import ShardOptions
from clearline.audit.continuous.stored import StoredOptions
from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, redis_config, registry_of
from clearline.metrics import metrics_address
from streams.report import Report
from streams.tieout_feed import Feed, keep_feeding
from streams.topics import Topics

log = structlog.get_logger()

FIRST_SHOWN = 20  # differences in the ready file; the log line of a change has three


def checkpoint_file(settings: Settings) -> Path:
    """Where the running sums are kept over a restart."""
    return settings.data_dir / "tieout" / "checkpoint"


def options_of(settings: Settings) -> Options:
    """The machine's options from the settings."""
    t = settings.tieout
    return Options(
        behind_s=t.behind_s,
        checkpoint=checkpoint_file(settings),
        stored=StoredOptions(again_rows=t.rows_again),
        shards=ShardOptions(accounts_per_round=t.accounts_per_round, names_per_round=t.accounts_per_round),
    )


def run(
    settings: Settings, ready_file: Path | None, stop: threading.Event | None = None, beside: Iterable[Collector] = ()
) -> None:
    """Blocks until SIGTERM, SIGINT or `stop`. Waits out what does not answer; a difference does not end it. `beside`:
    what is served with its own figures.

    Raises InvariantError when the journal holds what is none of its records, BadInputError when the metrics cannot be
    served where the settings say.
    """
    role = _Role(settings, ready_file, beside)
    try:
        keep_feeding(
            kafka_config(settings), Topics(settings.world), registry_of(settings), role.report, role.session, stop
        )
    finally:
        role.close()


class _Role:
    """The machine over sessions, and what it says."""

    def __init__(self, settings: Settings, ready_file: Path | None, beside: Iterable[Collector]) -> None:
        self.machine = Machine(clickhouse_config(settings), redis_config(settings), options_of(settings))
        self.report = Report("tieout", ready_file, 0.5)
        self._metrics = metrics.serve(metrics_address(settings, "tieout"), self.report, beside)
        self.report.metrics = self._metrics.url
        self.report.more = {"verdict": Verdict.CHECKING.word}
        self._interval_s = settings.tieout.interval_s
        self._said: tuple[Any, ...] = ()

    def session(self, feed: Feed, stop: threading.Event) -> None:
        """Reads and compares for as long as the source answers."""
        self.machine.open(feed)
        self.report.serves()
        next_round = time.monotonic()
        while not stop.is_set():
            came = self.machine.read(max(0.0, min(0.1, next_round - time.monotonic())))
            if time.monotonic() >= next_round or (not came and not self._said):
                next_round = time.monotonic() + self._interval_s
                self._say(self.machine.round())
                next_round = max(next_round, time.monotonic() + self._interval_s / 4)
            self.report.tell()
        self.machine.save()

    def _say(self, word: Word) -> None:
        at = self.machine.running.partitions
        self.report.verified = {p: x.cut.offset + 1 if x.waiting else x.position for p, x in at.items()}
        self.report.records = sum(x.cut.sequence for x in at.values())
        said = word.to_dict()
        said["differences"] = said["differences"][:FIRST_SHOWN]
        self.report.lag_seconds = word.lag_s
        self.report.more = {**said, "round_at": int(time.time() * 1000)}
        now = (word.verdict, *(word.findings[p].verdict for p in PARTS), *(d.text for d in word.differences[:3]))
        if now != self._said:
            self._said = now
            tell = log.error if word.verdict == Verdict.DIFFERS else log.info
            tell(
                "tie-out says " + word.verdict.word,
                **{p: word.findings[p].verdict.word for p in PARTS},
                differences=sum(word.findings[p].count for p in PARTS),
                first=[d.line for d in word.differences[:3]],
                said="; ".join(f.said for f in word.findings.values() if f.said),
                cut=said["cut"],
            )
        self.report.tell(now=True)

    def close(self) -> None:
        self._metrics.close()
        self.machine.close()
