"""Replays of a running system: what the commands and the console ask for, put together from settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearline.audit.live import LearningCodec, LiveLog
from clearline.config import Settings
from clearline.connection import clickhouse_config, connect, kafka_config, registry_of
from clearline.replay import bases, live, plan, run
from clearline.replay.live import Mark
from clearline.replay.plan import Plan
from clearline.replay.progress import Board
from clearline.replay.rules import read_rules
from clearline.replay.run import Eyes, Run
from clearline.replay.selection import Selection
from clearline.replay.shadow import Ground
from streams.clients import KafkaConfig
from streams.reader import offsets_at
from streams.registry import learn_schemas
from streams.topics import MESSAGE_BYTES_MAX, Topics, topic_ids

Tell = Callable[[Run], bool]


@dataclass(frozen=True, slots=True)
class Session:
    """One running system as replays see it. `root`: the folder of all replays of this world on this machine."""

    settings: Settings
    kafka: KafkaConfig
    topics: Topics
    eyes: Eyes
    root: Path

    @property
    def books(self) -> Path:
        """Where books are kept for later replays: those of this journal only."""
        return self.root / "books" / self.identity()[self.topics.journal].rpartition("@")[2]

    def identity(self) -> dict[str, str]:
        """The topics that are read, each with its id: a topic that was re-created has another."""
        names = [self.topics.submitted, self.topics.journal, self.topics.state]
        return dict(sorted(topic_ids(self.kafka, names).items()))

    def marks(self, places: Sequence[int]) -> dict[int, Mark]:
        """Where these partitions stand now."""
        return live.marks(self.eyes.log, self.eyes.ground.codec, self.eyes.decode, places)

    def plan(self, selection: Selection, rules: Sequence[Path] = ()) -> tuple[Plan, dict[int, Mark]]:
        """The plan of a replay, and where the live system stood. Raises BadInputError, PartUnavailableError."""
        marks = self.marks(selection.places(self.settings.partitions))
        published: dict[str, set[int]] = {}
        for mark in marks.values():
            for product, versions in mark.versions.items():
                published.setdefault(product, set()).update(versions)
        chosen = read_rules(rules, {p: sorted(v) for p, v in published.items()})
        made = plan.make_plan(
            self.settings.world, selection, chosen, self.eyes.log, self.eyes.ground, marks,
            bases.bases_of(self.books), lambda since: offsets_at(self.kafka, self.topics.submitted, since),
            self.identity(),
        )  # fmt: skip
        return made, marks

    def check(self, made: Plan) -> None:
        """Whether a plan can be done here, now. Raises PlanChangedError."""
        plan.check_plan(made, self.settings.world, self.eyes.log, self.identity())

    def execute(self, one: Run, watch: Tell, marks: dict[int, Mark] | None = None) -> dict[str, Any]:
        """Does a run, or the rest of it, and tells the table of replays how far it is; the diff's summary.

        Raises CancelledError, KeyboardInterrupt, PlanChangedError, PartUnavailableError.
        """
        self.check(one.plan)
        board = Board(clickhouse_config(self.settings))
        try:
            return run.execute(
                one, self.eyes, marks or self.marks([t.partition for t in one.plan.tasks]),
                lambda r: any([watch(r), board(r)]), books=self.books,
            )  # fmt: skip
        finally:
            board.close()


def root_of(settings: Settings) -> Path:
    """The folder of all replays of a world on this machine."""
    return Path(settings.data_dir) / "replay" / settings.world


def open_session(settings: Settings) -> Session:
    """A session with a running system. `settings` hold all addresses. Raises PartUnavailableError."""
    system = connect(settings)
    kafka, registry = kafka_config(settings), registry_of(settings)
    refused: set[int] = set()

    def learn(schema_ids: set[int]) -> set[int]:
        learn_schemas(system.codec, registry, schema_ids, refused)
        return refused

    window_ms = settings.settlement.keys_window_ms
    # What was too large died of the limit of its time, as its dead letter says; today's says nothing of it.
    ground = Ground(system.codec, learn, settings.partitions, window_ms, MESSAGE_BYTES_MAX)
    log = LiveLog(kafka, system.topics, settings.partitions)
    eyes = Eyes(log, LearningCodec(system.codec, registry).decode, ground)
    return Session(settings, kafka, system.topics, eyes, root_of(settings))
