"""One partition from where a replay begins to where it ends: the log settled into a shadow, beside the journal.

With rules there are two shadows. One settles history as it was and must come to history's own outcomes; the other
settles it under the rules. The first is also where it is asked what a rule alone makes of a transaction whose outcome
changed: if nothing, then it changed because of what came before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import orjson

from clearline.audit.views import DEAD, JOURNAL, SUBMITTED, Log
from clearline.replay import compare, snapshot
from clearline.replay.compare import TRANSACTION, Deltas, change_of, did, same_bytes
from clearline.replay.rules import Rewriting, Rule
from clearline.replay.selection import Selection
from clearline.replay.shadow import BATCH_RECORDS_MAX, Ground, Outcomes, Shadow
from schemas.codec import CHAIN_BYTES, HEADER_BYTES, UnknownSchemaError, schema_of
from schemas.failpoints import failpoint
from schemas.reader import compile_reader
from schemas.records import JournalRecord
from streams.letters import letter_of
from streams.reader import LogRecord

DIRECT, CONSEQUENT, DRIFT = "direct", "consequent", "drift"
_ZERO = bytes(CHAIN_BYTES)
# Reasons of dead letters that tell what the registry and the settings were, and not what the bytes are: today the same
# bytes may be a command, and the one that was put back for them is another record of this log.
_OF_ITS_TIME = frozenset({"unknown_schema", "too_large"})


class _Place(msgspec.Struct, gc=False):
    """What is read of each record of the journal."""

    source_offset: int


_read_place = compile_reader(
    schema_of("JournalRecord"), {"JournalRecord": _Place}, only={"JournalRecord": ("source_offset",)}
)


@dataclass(slots=True)
class Task:
    """What to do in one partition. `start` to before `end`: offsets of transactions.submitted; outcomes from
    `compare_from` on and appended at `compare_from_ms` or later are compared. `base`: the file of books to begin
    with."""

    partition: int
    start: int
    end: int
    compare_from: int = 0
    compare_from_ms: int = 0
    base: str = ""


@dataclass(slots=True)
class Result:
    """What came of a partition so far. `chain`: history's at the last record; `own_chain`: the shadow's of history as
    it was; `drift`: outcomes of that shadow that are not history's, `bytes_differ`: records of it that are other bytes;
    `older_schema`: whether records were written under an older version of the schema, so that chains must differ;
    `left_dead`: commands that died of a schema or a limit of their time, and are dead here as well."""

    done: int = 0
    compared: int = 0
    drift: int = 0
    bytes_differ: int = 0
    older_schema: bool = False
    left_dead: int = 0
    sequence: int = 0
    chain: bytes = _ZERO
    own_chain: bytes = _ZERO
    state: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    deltas: Deltas = field(default_factory=Deltas)
    elsewhere: list[str] = field(default_factory=list)
    changes_bytes: int = 0
    journal_next: int = 0
    next_offset: int = 0
    finished: bool = False


class PartitionReplay:
    """Replays one partition into files of `folder`: checkpoint-P.bin and changes-P.jsonl."""

    def __init__(
        self, task: Task, log: Log, ground: Ground, rules: Sequence[Rule], selection: Selection, folder: Path
    ) -> None:
        self.task = task
        self.result = Result(next_offset=task.start)
        self._log, self._ground, self._selection = log, ground, selection
        self._codec = ground.codec
        self._rewriting = Rewriting(rules, ground.codec) if rules else None
        self._history = Shadow(task.partition, ground)
        self._other = Shadow(task.partition, ground) if rules else None
        self._direct: set[bytes] = set()  # transactions between partitions that a rule changed, by id
        self._checkpoint = folder / f"checkpoint-{task.partition}.bin"
        self._changes = folder / f"changes-{task.partition}.jsonl"
        self._waiting: LogRecord | None = None
        self._journal: Iterator[LogRecord] = iter(())
        self._letters: Iterator[LogRecord] = iter(())
        self._letter: LogRecord | None = None
        self.resumed = self._resume()

    # ---- where it stands -------------------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Takes up what a checkpoint says, or the books that the task begins with."""
        found = snapshot.read(self._checkpoint)
        if found is None:
            if self.task.base:
                self._begin_with(Path(self.task.base))
            return False
        self.result = _result_of(found["result"])
        if not self.result.finished:
            self._load(self._history, found["history"])
            if self._other is not None:
                self._load(self._other, found["other"])
        self._direct = set(found["direct"])
        return True

    def _begin_with(self, path: Path) -> None:
        found = snapshot.read(path)
        assert found is not None, f"{path} was there when the plan was made"
        r, kept = self.result, _result_of(found["result"])
        r.chain = r.own_chain = kept.own_chain
        r.sequence, r.journal_next, r.next_offset = kept.sequence, kept.journal_next, kept.next_offset
        self._load(self._history, found["history"])
        if self._other is not None and self._rewriting is not None:
            self._load(self._other, found["history"])
            self._rewriting.put(self._other.base)

    def _load(self, shadow: Shadow, found: dict[str, Any]) -> None:
        shadow.base, shadow.index = snapshot.load(found, self._codec, self._ground.window_ms)

    def save(self) -> None:
        """Writes a checkpoint: whoever runs this replay again goes on from here."""
        document: dict[str, Any] = {"result": _plain(self.result), "direct": sorted(self._direct)}
        if not self.result.finished:
            document["history"] = snapshot.dump(self._history.base, self._history.index, self._codec)
            if self._other is not None:
                document["other"] = snapshot.dump(self._other.base, self._other.index, self._codec)
        failpoint("replay.before_checkpoint")
        with self._changes.open("ab") as file:
            os.fsync(file.fileno())
        snapshot.write(self._checkpoint, document)
        failpoint("replay.after_checkpoint")

    @property
    def has_books(self) -> bool:
        """Whether its books are in memory: those of a partition that was finished by another process are not."""
        return self._history.base.head.next_offset == self.result.next_offset

    def keep_books(self, path: Path) -> None:
        """Writes the books of history as they are now, for later replays to begin with."""
        books = snapshot.dump(self._history.base, self._history.index, self._codec)
        snapshot.write(path, {"result": _plain(self.result), "history": books})

    # ---- the walk --------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[int]:
        """Settles the rest of the partition; yields after each batch how many commands it had. What was yielded may
        be saved."""
        task, r = self.task, self.result
        if r.finished:
            return
        self._cut_changes()
        _, journal_end = self._log.span(JOURNAL, task.partition)
        self._journal = self._log.read(JOURNAL, task.partition, r.journal_next, journal_end)
        self._letters = self._log.read(DEAD, task.partition, *self._log.span(DEAD, task.partition))
        batch: list[LogRecord] = []
        for record in self._log.read(SUBMITTED, task.partition, r.next_offset, task.end):
            batch.append(record)
            if len(batch) == BATCH_RECORDS_MAX:
                self._settle(batch)
                yield len(batch)
                batch = []
        if batch:
            self._settle(batch)
            yield len(batch)
        self._finish()

    def _cut_changes(self) -> None:
        """What was written after the checkpoint is written again."""
        with self._changes.open("ab") as file:
            file.truncate(self.result.changes_bytes)

    def _finish(self) -> None:
        r, shadow = self.result, self._other or self._history
        r.counts = dict(_counts(shadow))
        r.state = snapshot.state_digest(snapshot.digests(snapshot.rows_of(shadow.base, self._codec)))
        r.finished = True

    def _settle(self, batch: list[LogRecord]) -> None:
        r = self.result
        old = self._history_of(batch[-1].offset)
        batch = self._with_dead(batch, old)
        other, rewriting = self._other, self._rewriting
        under = Outcomes()
        if other is not None and rewriting is not None:
            decoded = {o: self._decoded(v) for o, v in old.items()} if self._has_products(batch) else {}
            under = other.settle([rewriting.rewritten(m, decoded.get(m.offset)) for m in batch])
        changed = self._changed(batch, old, under) if other is not None else []
        asked = [m.offset for m, a, b in changed if compare.kind_of(_either(a, b)) == TRANSACTION and _unlike(a, b)]
        rows = rewriting.shelf(other.base) if other is not None and rewriting is not None else []
        own, alone = self._history.settle_asking(batch, asked, rows)
        differing = self._changed(batch, old, own)
        drifted = [(m, a, b) for m, a, b in differing if _unlike(a, b)]
        r.bytes_differ += len(differing)
        r.drift += len(drifted)
        lines = [self._line(m, a, b, alone) for m, a, b in changed]
        if other is None:
            lines = [self._noted(a, b, DRIFT) for _, a, b in drifted]
        else:
            self._note_steps(own, under)
        self._write([line for line in lines if line is not None])
        self._move_on(batch, old)

    def _has_products(self, batch: Sequence[LogRecord]) -> bool:
        unknown = self._codec.unknown_ids(m.value for m in batch)
        if unknown:
            self._ground.learn(unknown)
        return any(m.value and self._codec.name_of(m.value) == "PublishProduct" for m in batch)

    def _history_of(self, last: int) -> dict[int, bytes]:
        """The journal's records of commands up to this offset, that were not taken yet."""
        out: dict[int, bytes] = {}
        r = self.result
        while True:
            raw, self._waiting = self._waiting or next(self._journal, None), None
            if raw is None:
                return out
            assert raw.value is not None
            offset = self._source_offset(raw.value)
            if offset > last:
                self._waiting = raw
                return out
            out[offset] = raw.value
            r.chain = raw.value[-CHAIN_BYTES:]
            r.journal_next = raw.offset + 1
            r.sequence += 1

    def _with_dead(self, batch: list[LogRecord], old: dict[int, bytes]) -> list[LogRecord]:
        """The batch without the bytes of what died of something that was so only then: it dies here, too."""
        gone: set[int] = set()
        while True:
            raw, self._letter = self._letter or next(self._letters, None), None
            if raw is None:
                break
            letter = letter_of(raw)
            if letter.source_offset > batch[-1].offset:
                self._letter = raw
                break
            if letter.reason in _OF_ITS_TIME:
                gone.add(letter.source_offset)
        gone = {m.offset for m in batch if m.offset in gone and m.offset not in old}
        self.result.left_dead += len(gone)
        return [m._replace(value=b"") if m.offset in gone else m for m in batch] if gone else batch

    def _changed(
        self, batch: Sequence[LogRecord], old: dict[int, bytes], new: Outcomes
    ) -> list[tuple[LogRecord, JournalRecord | None, JournalRecord | None]]:
        """The commands whose records are not the same bytes, with both."""
        out = []
        for m in batch:
            a, b = old.get(m.offset), new.records.get(m.offset)
            if same_bytes(a, b):
                continue
            x, y = self._decoded(a) if a else None, self._decoded(b) if b else None
            if a is not None and a[:HEADER_BYTES] != self._codec.journal_header and _same_but_chain(x, y):
                self.result.older_schema = True  # of the same content, as an older version of the schema wrote it
                continue
            out.append((m, x, y))
        return out

    def _source_offset(self, value: bytes) -> int:
        if value[:HEADER_BYTES] == self._codec.journal_header:
            place: _Place = _read_place(value, HEADER_BYTES)
            return place.source_offset
        return self._decoded(value).source_offset

    def _decoded(self, value: bytes) -> JournalRecord:
        try:
            record = self._codec.decode(value)
        except UnknownSchemaError as e:  # an older version of the schema
            self._ground.learn({e.schema_id})
            record = self._codec.decode(value)
        assert isinstance(record, JournalRecord)
        return record

    # ---- what differs ----------------------------------------------------------------------------------------------

    def _line(
        self, m: LogRecord, old: JournalRecord | None, new: JournalRecord | None, alone: dict[int, bytes]
    ) -> dict[str, Any] | None:
        """The line of the diff for a command whose outcome changed under the rules; None when it did not, or is not
        selected."""
        if not _unlike(old, new):
            return None
        r = _either(old, new)
        if self._rewriting is not None and self._rewriting.concerns(r):
            return None
        why = CONSEQUENT
        if compare.kind_of(r) == TRANSACTION:
            first = alone.get(m.offset)
            by_rule = (did(self._decoded(first)) if first else did(None)) != did(old)
            if by_rule or r.command_id in self._direct:
                why = DIRECT
            if why == DIRECT and any(x is not None and x.outcome == "applied" for x in (old, new)):
                self._direct.add(r.command_id)
        return self._noted(old, new, why)

    def _noted(self, old: JournalRecord | None, new: JournalRecord | None, why: str) -> dict[str, Any] | None:
        """A difference as it is written, when it is selected; what it is worth is counted."""
        selected = any(x is not None and self._selected(x) for x in (old, new))
        if not selected:
            return None
        self.result.deltas.add(old, -1)
        self.result.deltas.add(new, 1)
        return change_of(old, new, why)

    def _selected(self, r: JournalRecord) -> bool:
        task = self.task
        if r.source_offset < task.compare_from or r.booked_at < task.compare_from_ms:
            return False
        return self._selection.takes(r)

    def _note_steps(self, own: Outcomes, under: Outcomes) -> None:
        """Steps to other partitions that the rules change: there the log still has history's."""
        for key in sorted(own.steps.keys() | under.steps.keys()):
            if own.steps.get(key) != under.steps.get(key):
                self.result.elsewhere.append(key)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        data = b"".join(orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n" for line in lines)
        with self._changes.open("ab") as file:
            file.write(data)
        self.result.changes_bytes += len(data)

    def _move_on(self, batch: Sequence[LogRecord], old: dict[int, bytes]) -> None:
        r, task = self.result, self.task
        r.done += len(batch)
        r.next_offset = batch[-1].offset + 1
        r.own_chain = self._history.base.head.chain
        everything = not self._selection.narrows and not task.compare_from and not task.compare_from_ms
        r.compared += len(batch) if everything else sum(self._compares(m, old) for m in batch)

    def _compares(self, m: LogRecord, old: dict[int, bytes]) -> bool:
        value = old.get(m.offset)
        return value is not None and self._selected(self._decoded(value))


def _either(a: JournalRecord | None, b: JournalRecord | None) -> JournalRecord:
    r = a if a is not None else b
    assert r is not None
    return r


def _same_but_chain(a: JournalRecord | None, b: JournalRecord | None) -> bool:
    if a is None or b is None:
        return a is b
    return msgspec.structs.replace(a, chain=b"") == msgspec.structs.replace(b, chain=b"")


def _unlike(a: JournalRecord | None, b: JournalRecord | None) -> bool:
    return did(a) != did(b)


def _counts(shadow: Shadow) -> dict[str, int]:
    h = shadow.base.head
    names = ("received", "settled", "rejected", "repeated", "applied", "dead")
    return {n: getattr(h, n) for n in names}


def _plain(r: Result) -> dict[str, Any]:
    out = {name: getattr(r, name) for name in Result.__slots__ if name != "deltas"}
    out["deltas"] = [[a, c, *map(str, delta)] for (a, c), delta in sorted(r.deltas.sums.items())]  # beyond 64 bits, too
    return out


def _result_of(found: dict[str, Any]) -> Result:
    deltas = {(a, c): [int(x) for x in delta] for a, c, *delta in found.pop("deltas")}
    return Result(**found, deltas=Deltas(deltas))
