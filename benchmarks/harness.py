"""What every part of the pipeline benchmark stands on: worlds of their own, helper processes, a sampler of progress.

Progress is the group's committed offsets, which are written in the same Kafka transaction as the journal; asking for
them costs the broker next to nothing, so watching does not disturb what is watched.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic

from benchmarks.load import Job, Plan
from benchmarks.machine import RESULTS, Results
from benchmarks.report import Report
from clearline.config import Settings, load_settings
from clearline.stack import Addresses, Stack
from schemas.codec import HEADER_BYTES, JOURNAL_PREFIX_BYTES, schema_of
from schemas.errors import BadInputError, ClearlineError
from streams.clients import KafkaConfig, admin_client
from streams.reader import end_offsets, read_to_end
from streams.registry import Registry
from streams.topics import Topics, create_topics

ROOT = Path(__file__).resolve().parent.parent


class BenchError(ClearlineError):
    """A measurement did not come to its end."""


class Helper:
    """A process of ours, `python -m benchmarks KIND JSON`, that says what it measured in lines of JSON."""

    def __init__(self, kind: str, job: dict[str, Any]) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", kind, json.dumps(job)],
            cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": "ignore"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """Its next line. Raises BenchError when it ends or says nothing for `timeout_s`."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise BenchError(f"helper {self.kind} said nothing for {timeout_s:.0f} s") from None
        if line is None:
            raise BenchError(f"helper {self.kind} ended with exit code {self._process.wait()}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def tell(self, document: dict[str, Any]) -> None:
        """Gives it the line that it waits for after it is ready."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Asks it to finish, which makes it say its figures."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it without its figures."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Sample(NamedTuple):
    """At a moment (CLOCK_MONOTONIC): committed offsets, ready workers, and CPU seconds by process name."""

    at: float
    offsets: dict[int, int]
    ready: int
    cpu: dict[str, float]

    @property
    def total(self) -> int:
        return sum(self.offsets.values())


class World:
    """Topics of one measurement, on the parts of `addresses`; its workers run under a supervisor, as in production."""

    def __init__(self, name: str, base: Settings, addresses: Addresses, plan: Plan, broker_pid: int) -> None:
        self.name = name
        self.plan = plan
        self.topics = Topics(name)
        self.kafka = KafkaConfig(addresses.kafka_bootstrap)
        self.addresses = addresses
        self._broker_pid = broker_pid
        unused = {"host": "127.0.0.1", "port": 9, "http_port": 9}  # settlement alone needs no ClickHouse and no Redis
        self.settings = base.model_copy(
            update={
                "world": name,
                "data_dir": base.data_dir / "worlds" / name,
                "partitions": plan.partitions,
                "kafka": base.kafka.model_copy(update={"bootstrap": addresses.kafka_bootstrap}),
                "registry": base.registry.model_copy(update={"url": addresses.registry_url}),
                "clickhouse": base.clickhouse.model_copy(update=unused),
                "redis": base.redis.model_copy(update={"url": "redis://127.0.0.1:9"}),
            }
        )
        self.stack: Stack | None = None
        self._owned = True
        self._extra: list[str] = []
        self._group = Consumer(
            {**self.kafka.base(), "group.id": self.topics.group, "isolation.level": "read_uncommitted"}
        )

    @classmethod
    def around(cls, stack: Stack, plan: Plan) -> World:
        """The world of a whole stack that runs already; it ends with the stack."""
        world = cls(stack.settings.world, stack.settings, stack.addresses(), plan, stack.pid("kafka"))
        world.settings, world.stack, world._owned = stack.settings, stack, False
        return world

    def __enter__(self) -> Self:
        if not self._owned:
            return self
        create_topics(self.kafka, self.topics, self.plan.partitions)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._owned:
            self._group.close()
            return
        self.stop_workers()
        self._group.close()
        admin = admin_client(self.kafka)
        for done in admin.delete_topics([*self.topics.settings(), *self._extra]).values():
            done.exception(30)
        for done in admin.delete_consumer_groups([self.topics.group]).values():
            done.exception(30)

    def topic(self, name: str) -> str:
        """A further topic, with the same partitions; it goes with the world."""
        full = f"{self.name}.{name}"
        admin = admin_client(self.kafka)
        for done in admin.create_topics([NewTopic(full, self.plan.partitions, 1)]).values():
            done.result(30)
        self._extra.append(full)
        deadline = time.monotonic() + 30
        while True:
            try:
                end_offsets(self.kafka, full)
                return full
            except (ClearlineError, KafkaException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    # ---- load ----------------------------------------------------------------------------------------------------

    def job(self, kind: str, **values: Any) -> Helper:
        """A load process of this world."""
        at = self.addresses
        job = Job(kind, at.kafka_bootstrap, at.registry_url, self.name, asdict(self.plan), **values)
        return Helper("load", asdict(job))

    def setup(self, *, funded: bool = True) -> None:
        """Publishes partners and accounts."""
        with self.job("setup", funded=funded) as helper:
            helper.hear(600)

    def fill(self, number: int, tag: str = "fill") -> dict[str, Any]:
        """Publishes a backlog of `number` transactions, as fast as it goes."""
        with self.job("fill", number=number, tag=tag) as helper:
            return helper.hear(180 + number / 1_000)

    # ---- workers -------------------------------------------------------------------------------------------------

    def start_workers(self, number: int, *, wait: bool = True) -> Stack:
        """Starts slots 0 to `number` - 1 of the real role, supervised."""
        settings = self.settings.model_copy(update={"workers": number})
        self.stack = Stack(settings, parts=())
        self.stack.start()
        names = [f"worker-{i}" for i in range(number)]
        if wait:
            self.stack.start_roles(names)
        else:
            self.stack.begin_roles(names)
        return self.stack

    def stop_workers(self) -> None:
        if self.stack is not None:
            self.stack.stop()
            self.stack = None

    def figures(self, slot: int = 0) -> dict[str, Any]:
        """What a worker says of itself; empty before it serves."""
        try:
            text = (self.settings.data_dir / "ready" / f"worker-{slot}.json").read_text(encoding="utf-8")
            document: dict[str, Any] = json.loads(text)
            return document
        except (OSError, ValueError):
            return {}

    def all_figures(self) -> list[dict[str, Any]]:
        number = self.stack.settings.workers if self.stack is not None else 0
        return [self.figures(i) for i in range(number)]

    # ---- progress ------------------------------------------------------------------------------------------------

    def ends(self) -> dict[int, int]:
        """How many commands each partition holds."""
        return end_offsets(self.kafka, self.topics.submitted)

    def sample(self) -> Sample:
        """How far the workers have committed."""
        asked = [TopicPartition(self.topics.submitted, p) for p in range(self.plan.partitions)]
        known = self._group.committed(asked, timeout=30)
        offsets = {tp.partition: max(0, tp.offset) for tp in known}
        figures = [f for f in self.all_figures() if f.get("ready")]
        cpu = {"kafka": _cpu_s(self._broker_pid)}
        cpu |= {f"worker-{f['slot']}": _cpu_s(f["pid"]) for f in figures}
        return Sample(time.monotonic(), offsets, len(figures), cpu)

    def watch(self, ends: dict[int, int], timeout_s: float, interval_s: float = 0.05) -> list[Sample]:
        """Samples until everything up to `ends` is committed. Raises BenchError at the deadline."""
        samples = [self.sample()]
        deadline = time.monotonic() + timeout_s
        while samples[-1].total < sum(ends.values()):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: {samples[-1].total} of {sum(ends.values())} after {timeout_s:.0f} s")
            time.sleep(interval_s)
            samples.append(self.sample())
        return samples

    def settle_all(self, timeout_s: float = 120.0) -> None:
        """Waits until all that is published is settled."""
        self.watch(self.ends(), timeout_s)

    def outcomes(self) -> dict[str, int]:
        """Committed journal records by outcome."""
        fields = {f["name"]: f["type"] for f in schema_of("JournalRecord")["fields"]}
        symbols = fields["outcome"]["symbols"]
        counts = dict.fromkeys(symbols, 0)
        at = HEADER_BYTES + JOURNAL_PREFIX_BYTES
        for r in read_to_end(self.kafka, self.topics.journal):
            assert r.value is not None
            counts[symbols[r.value[at] >> 1]] += 1
        return {name: n for name, n in counts.items() if n}


def window(samples: list[Sample], workers: int, ends: dict[int, int]) -> tuple[Sample, Sample]:
    """The span in which all workers worked: from when all had committed, to when the first partition ran dry.

    The whole drain when that is shorter than a third of it (small backlogs); from the last sample before it when it was
    over between two samples.
    """
    loaded = {p for p, end in ends.items() if end}
    begun = [s for s in samples if s.total > 0]
    if begun[0].total == begun[-1].total:
        return samples[max(0, samples.index(begun[0]) - 1)], begun[-1]
    first = next((s for s in begun if s.ready >= workers), begun[0])
    last = next((s for s in begun if workers > 1 and any(s.offsets[p] >= ends[p] for p in loaded)), begun[-1])
    if last.at - first.at < (begun[-1].at - begun[0].at) / 3:
        return begun[0], begun[-1]
    return first, last


def rate(first: Sample, last: Sample) -> float:
    """Commands per second between two samples."""
    return (last.total - first.total) / max(1e-9, last.at - first.at)


def cpu_shares(first: Sample, last: Sample) -> dict[str, float]:
    """Parts of one core that each process used between two samples."""
    seconds = max(1e-9, last.at - first.at)
    return {n: round((s - first.cpu[n]) / seconds, 2) for n, s in last.cpu.items() if n in first.cpu}


def _cpu_s(pid: int) -> float:
    try:
        t = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(t.user + t.system)


def rss_mb(pids: Iterable[tuple[str, int | None]]) -> dict[str, float]:
    """Resident megabytes by process name."""
    out = {}
    for name, pid in pids:
        try:
            if pid:
                out[name] = round(psutil.Process(pid).memory_info().rss / 2**20, 1)
        except psutil.Error:
            continue
    return out


def prepare_registry(addresses: Addresses) -> None:
    """Registers the schemas."""
    Registry(addresses.registry_url).register_all()


@contextmanager
def unlimited_settings(world: str) -> Iterator[Settings]:
    """Settings of a stack in a folder that goes with it. The gateway counts calls, and refuses none."""
    folder = Path(tempfile.mkdtemp(prefix="clearline-bench-"))
    try:
        settings = load_settings(data_dir=folder / "stack", world=world)
        unlimited = {"rate_per_s": 1e6, "burst": 10_000_000, "calls_per_day": 10**9}
        yield settings.model_copy(update={"gateway": settings.gateway.model_copy(update=unlimited)})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def settled_stack(settings: Settings, plan: Plan, report: Report) -> Iterator[tuple[Stack, World]]:
    """All parts and roles, and a world in them whose accounts are open and filled."""
    with Stack(settings) as stack:
        report.say("starting all parts and roles")
        stack.start(roles=True)
        with World.around(stack, plan) as world:
            world.setup()
            world.settle_all()
            yield stack, world


def run_benchmark(
    name: str,
    arguments: Sequence[str] | None,
    parse: Callable[[Sequence[str]], argparse.Namespace],
    run: Callable[[argparse.Namespace, Report], int],
) -> int:
    """What the `main` of a benchmark does: returns the exit code of `run`, or that of an error, which is printed.

    `arguments`: those of the process when None; what `parse` makes of them has `common_arguments`.
    """
    # A timeout's SIGTERM must end what was started as well as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return run(options, Report(Results(name, options.seed, options.results), options.json))
    except ClearlineError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code


def common_arguments(parser: argparse.ArgumentParser, parts: Sequence[str]) -> None:
    """The options of every benchmark that runs in parts."""
    parser.add_argument("--only", default=",".join(parts), help=f"parts to run, with commas: {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, measures little")
    parser.add_argument("--json", action="store_true", help="JSON lines on standard output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")


def chosen_parts(only: str, parts: Sequence[str]) -> list[str]:
    """The parts that `--only` names. Raises BadInputError for what is none."""
    chosen = [p for p in only.split(",") if p]
    for unknown in (p for p in chosen if p not in parts):
        raise BadInputError(f"{unknown} is not a part of this benchmark; parts are {', '.join(parts)}")
    return chosen
