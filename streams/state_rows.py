"""The end of `ledger.state` in memory: partners, products, limits, usage, calendars and freezes of every partition, as
a worker that takes over would have them, and the accounts that changed last.

A gateway follows the topic from its first record. Values are kept as the bytes that they are and decoded when somebody
asks, so following costs little while the ledger is busy. Holds and transactions in flight are stepped over. Of
accounts, of which there may be millions, only the last `accounts_max` that changed are kept: they bridge the moment
until the projections have them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator

import structlog
from confluent_kafka import KafkaException

from schemas.codec import Codec, UndecodableError
from schemas.errors import ClearlineError, PartUnavailableError
from schemas.records import AccountState, PartitionState, Record
from streams.clients import KafkaConfig
from streams.reader import LogReader, LogRecord, end_offsets

log = structlog.get_logger()

ACCOUNTS_MAX = 20_000
_META = "meta"
_KEPT = frozenset({b"p:", b"d:", b"l:", b"u:", b"c:", b"f:"})


class _Rows:
    """The rows of one partition by key. Their keys are sorted when they are asked for after one came or went."""

    __slots__ = ("_lock", "_sorted", "values")

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._sorted: list[str] | None = None
        self._lock = threading.Lock()

    def put(self, key: str, value: bytes | None) -> None:
        if value is not None and key in self.values:
            self.values[key] = value
            return
        with self._lock:
            self._sorted = None
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value

    def keys(self) -> list[str]:
        with self._lock:
            if self._sorted is None:
                self._sorted = sorted(self.values)
            return self._sorted


class StateRows:
    """Follows `ledger.state` in a thread of its own; every method may be called from any thread.

    The constructor returns at once, and until everything that was there is in, whoever asks gets a
    PartUnavailableError. `learn` teaches the codec schema ids that it does not know.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, codec: Codec, learn: Callable[[set[int]], None] = lambda _ids: None,
        accounts_max: int = ACCOUNTS_MAX,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._topic = topic
        self._codec = codec
        self._learn = learn
        self._accounts_max = accounts_max
        self._rows: dict[int, _Rows] = {}
        self._accounts: OrderedDict[str, bytes] = OrderedDict()
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rows of {topic}", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether all that was there at the start is in."""
        return self._ready.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Waits until it is ready; whether it is."""
        return self._ready.wait(timeout_s)

    def row(self, partition: int, key: str) -> Record | None:
        """The row of this key. Raises PartUnavailableError."""
        value = self._of(partition).values.get(key)
        return self._decode(value) if value is not None else None

    def keys(self, partition: int, prefix: str, after: str = "") -> Iterator[str]:
        """Keys that start with `prefix` and come after `after`, sorted. Raises PartUnavailableError."""
        keys = self._of(partition).keys()
        i = bisect_right(keys, after) if after >= prefix else bisect_left(keys, prefix)
        while i < len(keys) and keys[i].startswith(prefix):
            yield keys[i]
            i += 1

    def account(self, account_id: str) -> AccountState | None:
        """The account as its last change left it; None when that was long ago. Raises PartUnavailableError."""
        self._check()
        value = self._accounts.get(account_id)
        found = self._decode(value) if value is not None else None
        return found if isinstance(found, AccountState) else None

    def head(self, partition: int) -> PartitionState | None:
        """Where the partition stood at its last record here: every row is at least as new. Ask it before the rows."""
        found = self.row(partition, _META)
        return found if isinstance(found, PartitionState) else None

    def close(self) -> None:
        """Stops following."""
        self._ended.set()
        self._thread.join(2)

    def _check(self) -> None:
        if not self._ready.is_set():
            raise PartUnavailableError("Kafka", self._kafka.bootstrap, f"{self._topic} is still being read")

    def _of(self, partition: int) -> _Rows:
        self._check()
        return self._rows.get(partition) or _Rows()

    def _decode(self, value: bytes) -> Record:
        try:
            record: Record = self._codec.decode(value)
        except UndecodableError as e:  # written by a newer version, and the registry did not say how
            raise PartUnavailableError("Schema registry", self._topic, e.detail) from None
        return record

    def _run(self) -> None:
        """Follows until it is closed, over whatever happens to the broker. It goes on after the last record that it
        took: from the first one, rows would go back to what they were."""
        position: dict[int, int] = {}
        while not self._ended.is_set():
            try:
                ends = end_offsets(self._kafka, self._topic)
                with LogReader(self._kafka, self._topic, position or None) as reader:
                    self._follow(reader, ends, position)
            except (KafkaException, ClearlineError) as e:
                log.warning("state_rows_paused", topic=self._topic, error=str(e))
                self._ended.wait(1.0)

    def _follow(self, reader: LogReader, ends: dict[int, int], position: dict[int, int]) -> None:
        while not self._ended.is_set():
            # The first one at once, then what came with it: whoever was just answered reads what he wrote.
            records = reader.poll(1, 0.1)
            if records:
                records += reader.poll(10_000, 0)
            unknown = self._codec.unknown_ids(r.value for r in records)
            if unknown:
                self._learn(unknown)
            for r in records:
                self._take(r)
            position.update(reader.position)
            if not self._ready.is_set() and all(reader.position.get(p, 0) >= end for p, end in ends.items()):
                self._ready.set()

    def _take(self, r: LogRecord) -> None:
        key = r.key or b""
        if key[:2] in _KEPT or key == b"meta":
            self._rows.setdefault(r.partition, _Rows()).put(key.decode("utf-8", "replace"), r.value)
        elif key[:2] == b"a:" and r.value is not None:
            account_id = key[2:].decode("utf-8", "replace")
            self._accounts[account_id] = r.value
            self._accounts.move_to_end(account_id)
            if len(self._accounts) > self._accounts_max:
                self._accounts.popitem(last=False)
