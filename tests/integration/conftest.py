"""One broker and one registry for all integration tests that need no more; each test gets a world of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clearline.config import Settings, load_settings
from clearline.stack import CHECKOUT, Stack
from schemas.codec import Codec
from schemas.records import JournalRecord
from streams.clients import KafkaConfig
from streams.publisher import CommandPublisher
from streams.reader import end_offsets, read_to_end
from streams.registry import Registry
from streams.topics import Topics, create_topics
from tests.sink_servers import wait_for


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with the addresses of a running broker and registry."""
    settings = load_settings(data_dir=tmp_path_factory.mktemp("stack"), partitions=4)
    with Stack(settings, parts=("kafka", "registry")) as stack:
        stack.start()
        Registry(stack.resolved().registry.url or "").register_all()
        yield stack.resolved()


@dataclass
class World:
    """A world of its own on the shared broker, and Faust workers that settle in it."""

    settings: Settings
    kafka: KafkaConfig
    topics: Topics
    codec: Codec
    folder: Path
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, slot: int = 0, **env: str) -> None:
        """Starts a worker the way whoever knows Faust would."""
        s = self.settings
        own = {
            "PYTHONPATH": str(CHECKOUT), "CLEARLINE_WORLD": s.world, "CLEARLINE_SLOT": str(slot),
            "CLEARLINE_DATA_DIR": str(self.folder), "CLEARLINE_KAFKA__BOOTSTRAP": str(s.kafka.bootstrap),
            "CLEARLINE_REGISTRY__URL": str(s.registry.url), "CLEARLINE_PARTITIONS": str(s.partitions),
        }  # fmt: skip
        faust = [sys.executable, "-m", "faust", "-A", "clearline.worker", "worker", "-l", "warn", "--without-web"]
        with (self.folder / f"worker-{slot}.log").open("ab") as log:
            self.workers[slot] = subprocess.Popen(
                faust, env={**os.environ, **own, **env}, stdout=log, stderr=log, cwd=self.folder
            )

    def kill(self, slot: int = 0) -> None:
        self.workers[slot].kill()
        self.workers[slot].wait()

    def publisher(self) -> CommandPublisher:
        return CommandPublisher(self.kafka, self.topics, self.codec, self.settings.partitions)

    def journal(self) -> list[JournalRecord]:
        """Every committed outcome, in the order of each partition."""
        return [self.codec.decode(r.value) for r in read_to_end(self.kafka, self.topics.journal)]

    def outcomes(self, count: int, seconds: float = 180.0) -> list[JournalRecord]:
        """The journal, once it has at least `count` records."""

        def enough() -> list[JournalRecord]:
            if sum(end_offsets(self.kafka, self.topics.journal).values()) < count:
                return []  # to read all that is there would take the processor from whom it waits for
            records = self.journal()
            return records if len(records) >= count else []

        return wait_for(f"{count} journal records", enough, seconds)


@pytest.fixture
def world(broker: Settings, tmp_path: Path) -> Iterator[World]:
    name = f"t{uuid.uuid4().hex[:8]}"
    settings: Any = broker.model_copy(update={"world": name})
    kafka = KafkaConfig(str(broker.kafka.bootstrap))
    topics = Topics(name)
    create_topics(kafka, topics, broker.partitions)
    codec = Registry(str(broker.registry.url)).codec()
    w = World(settings, kafka, topics, codec, tmp_path)
    yield w
    for worker in w.workers.values():
        worker.kill()
        worker.wait()
