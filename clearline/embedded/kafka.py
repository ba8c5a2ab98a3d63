"""Apache Kafka as a child process: one KRaft node (broker and controller), the real server from Maven Central.

The settings are for one node on a small machine: internal topics with few partitions and factor 1, no waiting for
further group members, and a broker session short enough that a killed broker is let back in quickly.
"""

from __future__ import annotations

import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from clearline.embedded.java import ClassArchive
from clearline.embedded.probes import HOST, kafka_answers
from clearline.embedded.process import ProcessSpec
from schemas.errors import ClearlineError

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c{1})%n
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = WARN
logger.cleaner.name = org.apache.kafka.storage.internals.log.LogCleaner
logger.cleaner.level = WARN
"""
_FORMAT_TIMEOUT_S = 60
_COORDINATOR_SEGMENT_BYTES = 1_048_576


def kafka_spec(
    java: str,
    archive: ClassArchive,
    jars: list[Path],
    folder: Path,
    ports: tuple[int, int],
    heap_mb: int,
    message_bytes_max: int,
) -> ProcessSpec:
    """The broker; `ports`: for clients, and of its controller. It formats its folder at the first start only."""
    port, controller_port = ports
    classpath = ":".join(str(j) for j in jars)
    properties = folder / "server.properties"
    logs = folder / "data"
    mapped = [o for o in archive.options if o.startswith("-XX:SharedArchiveFile=")]
    options = [f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}", "-cp", classpath]

    def before() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        properties.write_text(_properties(logs, port, controller_port, message_bytes_max), encoding="utf-8")
        if not (logs / "meta.properties").exists():
            _format(java, [*mapped, *options], properties)

    return ProcessSpec(
        name="kafka",
        command=(
            java,
            f"-Xms{heap_mb // 2}m",
            f"-Xmx{heap_mb}m",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            *archive.options,
            *options,
            "kafka.Kafka",
            str(properties),
        ),
        probe=lambda _pid: kafka_answers(port),
        before=before,
        after=archive.keep,
        stop_timeout_s=30.0,
    )


def _format(java: str, options: list[str], properties: Path) -> None:
    # May begin with a dash, so it is never an argument of its own.
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    jvm = (java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *options)
    tool = ("kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={cluster}", "-c", str(properties))
    done = subprocess.run([*jvm, *tool], capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ClearlineError(f"Kafka cannot format its folder {properties.parent} with {java}: {' '.join(last)}")


def _properties(logs: Path, port: int, controller_port: int, message_bytes_max: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "log.dirs": logs,
        "num.partitions": 1,
        "auto.create.topics.enable": "false",
        # Compacted in small pieces, so that a broker that was killed has loaded its coordinators in a moment. A lone
        # broker starts to load them twice when it comes back; with a long log both meet (docs/exactly-once.md).
        "offsets.topic.segment.bytes": _COORDINATOR_SEGMENT_BYTES,
        "transaction.state.log.segment.bytes": _COORDINATOR_SEGMENT_BYTES,
        "log.cleaner.backoff.ms": 5_000,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "message.max.bytes": max(1_048_588, message_bytes_max + 100_000),
        "log.cleaner.dedupe.buffer.size": 33_554_432,
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
