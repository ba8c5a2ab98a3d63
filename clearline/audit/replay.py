"""One partition, from its first kept command to its last: what must have happened, beside what is written down.

A merge of three ordered streams (commands, journal, dead letters) by source offset; nothing but accounts, open holds
and keys of this one partition is held in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from clearline.audit.closes import Closes
from clearline.audit.contract import DAY_MS, LEAST_BYTES_MAX, Terms
from clearline.audit.following import decides
from clearline.audit.journal import Decode, JournalWalk, Outcome
from clearline.audit.projections import BalancesCheck, EntriesCheck
from clearline.audit.recompute import DEBIT_NORMAL, Expected, Recomputation
from clearline.audit.seals import SealsCheck
from clearline.audit.state import Counts, StateCheck
from clearline.audit.traffic import Traffic
from clearline.audit.verdict import Findings
from clearline.audit.views import DEAD, JOURNAL, SUBMITTED, BalanceStore, EntryStore, Log
from schemas.codec import HEADER_BYTES, UndecodableError
from schemas.records import Crossing, JournalRecord, PendingLeg, PostedLeg, Transaction
from streams.reader import LogRecord

PROGRESS_EVERY = 10_000
Progress = Callable[[int, int, int], None]  # partition, commands done, commands in all


class PartitionReplay:
    """Replays one partition and notes every difference in `findings`. `drained`: nothing may be waiting or lag."""

    def __init__(
        self, partition: int, log: Log, decode: Decode, terms: Terms, findings: Findings, *,
        entries: EntryStore | None = None, balances: BalanceStore | None = None,
        drained: bool = False, progress: Progress | None = None, now_ms: int | None = None,
        traffic: Traffic | None = None, closes: Closes | None = None,
    ) -> None:  # fmt: skip
        self.partition = partition
        self.model = Recomputation(terms, partition)
        self.counts = Counts()
        self.waiting = 0
        self.notes: list[str] = []
        self._log, self._decode, self._f = log, decode, findings
        self._terms = terms
        self._traffic = traffic or Traffic(findings["crossing"])
        self._drained, self._progress = drained, progress
        # The order matters on a live system: what follows the journal is looked at before the journal's end is.
        self._entries = EntriesCheck(partition, entries, findings["clickhouse"]) if entries else None
        self._balances = BalancesCheck(partition, balances, findings["redis"]) if balances else None
        self._closes = (closes or Closes(findings["closes"])).partition(partition)
        self._seals = SealsCheck(partition, log, decode, findings["seals"])
        self._now_ms = now_ms
        self._group_before = log.group_offset(partition)
        self._state = StateCheck(partition, findings)
        self._state.read(log, decode)
        self._last: Outcome | None = None
        self._heads_settled: set[bytes] = set()  # of commands before: their schemas were known
        self.excused: Counter[str] = Counter()

    def run(self) -> None:
        """Does the whole partition."""
        p, log = self.partition, self._log
        group_after = log.group_offset(p)
        j_start, j_end = log.span(JOURNAL, p)
        self._dead_from, d_end = log.span(DEAD, p)
        start, end = log.span(SUBMITTED, p)
        walk = JournalWalk(p, log.read(JOURNAL, p, j_start, j_end), self._decode, self._f, self._seals, self._closes)
        self._journal = iter(walk)
        self._dead = log.read(DEAD, p, self._dead_from, d_end)
        self._head = next(self._journal, None)
        self._letter = next(self._dead, None)
        if self._entries:
            self._entries.open(0, end)
        self._traffic.partition(p)
        if start:
            self._trust(start)
        self._commands(start, end)
        self._finish(end, group_after)
        self._traffic.walked(p, self.model.event_time, self.model.flights)
        walk.close()
        self._seals.close(self._now_ms)
        self.notes += self._seals.notes

    def _trust(self, start: int) -> None:
        """Commands before `start` are no longer kept: their outcomes are taken from the journal as a known point."""
        trusted = 0
        while self._head is not None and self._head.record.source_offset < start:
            outcome = self._take()
            self._pass_by(outcome.record.source_offset)
            self._follow(outcome.record)
            self._account_for(outcome)
            trusted += 1
        while self._letter is not None and _source_offset(self._letter) < start:
            received_at = int(dict(self._letter.headers or []).get("received_at", b"0"))
            self.model.event_time = max(self.model.event_time, received_at)
            self.counts.event_time = max(self.counts.event_time, received_at)
            self._letter = next(self._dead, None)
            self.counts.received += 1
            self.counts.dead += 1
        self.notes.append(
            f"partition {self.partition}: commands before offset {start} are no longer kept; the recomputation starts "
            f"from {trusted} outcomes of the journal, whose own order, chain and balance are checked as ever"
        )

    def _follow(self, r: JournalRecord) -> None:
        """Takes a trusted record's word, for the traffic between partitions, too."""
        for key in self.model.follow(r, self._state.expiries, self._state.rows):
            self._traffic.sent_key(key, r.booked_at)
        if r.command == "Crossing" and r.binds_key:
            self._traffic.receive(r.idempotency_key, r.booked_at)
        elif r.command == "Transaction" and decides(r):
            self._traffic.decided(self.partition, r)

    def _commands(self, start: int, end: int) -> None:
        done = 0
        for raw in self._log.read(SUBMITTED, self.partition, start, end):
            self._at_state(raw.offset)
            self._command(raw)
            done += 1
            if self._progress and done % PROGRESS_EVERY == 0:
                self._progress(self.partition, done, end - start)
        self._at_state(end)
        if self._progress:
            self._progress(self.partition, done, end - start)

    def _at_state(self, offset: int) -> None:
        if not self._state.compared and offset >= self._state.next_offset:
            last = self._last
            chain = last.chain if last else bytes(32)
            self._state.compare(self.model, self.counts, last.record.sequence if last else 0, chain)

    # ---- one command -------------------------------------------------------------------------------------------------

    def _command(self, raw: LogRecord) -> None:
        at = f"partition {self.partition} offset {raw.offset}"
        outcomes = list(self._outcomes_at(raw.offset))
        letters = list(self._letters_at(raw.offset))
        if not outcomes and not letters and self._head is None and raw.offset >= self._state.next_offset:
            self.waiting += 1
            self._note_step(raw, waiting=True)
            return
        f = self._f["one_outcome"]
        f.count("commands")
        if len(outcomes) + len(letters) != 1:
            many = f"{len(outcomes)} journal records and {len(letters)} dead letters"
            f.differ(f"{at}: {many if outcomes or letters else 'has no outcome: lost'}")
        self.counts.received += 1
        self.counts.event_time = max(self.counts.event_time, raw.timestamp_ms)
        self._pass_by(raw.offset)
        excuse = self._excuse(raw, letters) if not outcomes else ""
        dies = excuse or (letters and not outcomes and self._is_valid(raw))  # buried for nothing: it has done nothing
        expected, command, why = self._let_die(raw, excuse) if dies else self._expect(raw, outcomes)
        if outcomes:
            self._heads_settled.add((raw.value or b"")[:HEADER_BYTES])
        for letter in letters:
            self.counts.dead += 1
            self._compare_letter(at, raw, letter, why)
        for outcome in outcomes:
            self._count(outcome)
            if expected is None:
                self._f["outcome"].differ(f"{at}: is {outcome.record.outcome}, must be a dead letter ({why})")
            else:
                self._compare(at, raw, command, expected, outcome.record)
            self._project(outcome)

    def _read(self, raw: LogRecord) -> object:
        """The command in these bytes. Raises UndecodableError. Steps between partitions may be of any size."""
        try:
            self._terms.refuse_size(raw.value)
        except UndecodableError as too_large:
            try:
                command = self._decode(raw.value)
            except UndecodableError:
                command = None
            if not isinstance(command, Crossing):
                raise too_large from None
        else:
            command = self._decode(raw.value)
        self._terms.refuse(command, self.partition)
        return command

    def _is_valid(self, raw: LogRecord) -> bool:
        with suppress(UndecodableError):
            self._read(raw)
            return True
        return False

    def _note_step(self, raw: LogRecord, *, waiting: bool = False) -> None:
        """Notes a step between partitions that stands in the log, whatever becomes of it."""
        try:
            command = self._read(raw)
        except UndecodableError:
            return
        if isinstance(command, Crossing):
            self._traffic.receive(command.idempotency_key, raw.timestamp_ms, command, waiting=waiting)

    def _expect(self, raw: LogRecord, outcomes: list[Outcome]) -> tuple[Expected | None, object, str]:
        """The expected outcome and the command; or None, and the reason of the dead letter.

        `outcomes`: what the journal has here; it counts only for what nothing else says any more.
        """
        try:
            command = self._read(raw)
        except UndecodableError as e:
            self.model.event_time = max(self.model.event_time, raw.timestamp_ms)
            return None, None, e.reason
        lapsed = dict.fromkeys(p.hold_id for o in outcomes for p in o.record.pending if p.expired)
        witness = outcomes[0].record if outcomes else None
        if isinstance(command, Crossing):
            self._traffic.receive(command.idempotency_key, raw.timestamp_ms, command)
        return self.model.expect(raw.offset, command, raw.timestamp_ms, lapsed, witness=witness), command, ""

    def _excuse(self, raw: LogRecord, letters: list[LogRecord]) -> str:
        """A reason that was good when this was buried, and need not be any more: the registry has learnt a schema that
        no command before this one had, or the largest command that is taken was smaller then."""
        reason = dict(letters[0].headers or []).get("reason", b"").decode("utf-8", "replace") if letters else ""
        value = raw.value or b""
        if reason == "unknown_schema" and self._may_have_been_unknown(value):
            self.excused[reason] += 1
            return reason
        if reason == "too_large" and LEAST_BYTES_MAX < len(value) <= self._terms.message_bytes_max:
            self.excused[reason] += 1
            return reason
        return ""

    def _may_have_been_unknown(self, value: bytes) -> bool:
        """Whether these bytes name a schema that is known now, and was not known to whoever buried them."""
        head = value[:HEADER_BYTES]
        if len(head) < HEADER_BYTES or head[0] or head in self._heads_settled:
            return False
        if int.from_bytes(head[1:], "big") in self._terms.schema_ids:
            return False
        try:
            self._decode(value)
        except UndecodableError as e:
            return e.reason != "unknown_schema"
        return True

    def _let_die(self, raw: LogRecord, why: str) -> tuple[None, None, str]:
        self.model.event_time = max(self.model.event_time, raw.timestamp_ms)
        return None, None, why

    def _outcomes_at(self, offset: int) -> Iterator[Outcome]:
        """Takes the journal records of this offset; one of an offset that no command has is noted."""
        while self._head is not None and self._head.record.source_offset <= offset:
            outcome = self._take()
            if outcome.record.source_offset == offset:
                yield outcome
            else:
                self._stray(outcome)

    def _take(self) -> Outcome:
        outcome = self._last = self._head
        assert outcome is not None
        self._head = next(self._journal, None)
        return outcome

    def _stray(self, outcome: Outcome) -> None:
        """A journal record behind the walk: a second outcome of an offset, or one of no command at all."""
        r = outcome.record
        self._count(outcome)
        self._f["one_outcome"].differ(
            f"journal[{self.partition}] offset {outcome.journal_offset}: a further or unfounded outcome ({r.outcome}) "
            f"for source offset {r.source_offset}"
        )

    def _letters_at(self, offset: int) -> Iterator[LogRecord]:
        while self._letter is not None and _source_offset(self._letter) <= offset:
            letter = self._letter
            self._letter = next(self._dead, None)
            if _source_offset(letter) == offset:
                yield letter
            else:
                self._f["dead_letters"].differ(
                    f"dead[{self.partition}] offset {letter.offset}: a further or unfounded dead letter for source "
                    f"offset {_source_offset(letter)}"
                )

    def _count(self, outcome: Outcome) -> None:
        self.counts.add(outcome.record.outcome)

    def _account_for(self, outcome: Outcome) -> None:
        """Counts and projects a record that is trusted."""
        self.counts.received += 1
        self.counts.event_time = max(self.counts.event_time, outcome.record.booked_at)
        self._count(outcome)
        self._project(outcome)

    def _pass_by(self, offset: int) -> None:
        """Before the recomputation takes a command: has the walk come to where Redis stands?"""
        if self._balances:
            self._balances.before(offset, self.model)

    def _project(self, outcome: Outcome) -> None:
        if outcome.record.postings:
            self._traffic.see(self.partition, outcome.record)
        if self._balances:
            self._balances.see(outcome.record, self.model)
        if self._entries:
            self._entries.see(outcome.journal_offset, outcome.record)

    # ---- comparing ---------------------------------------------------------------------------------------------------

    def _compare(self, at: str, raw: LogRecord, c: object, e: Expected, r: JournalRecord) -> None:
        """One outcome with what the recomputation expects."""
        if (r.outcome, r.reason) != (e.outcome, e.reason):
            name = "idempotency" if e.first_offset >= 0 else "outcome"
            self._f[name].differ(f"{at}: is {_named(r.outcome, r.reason)}, must be {_named(e.outcome, e.reason)}")
        if (r.first_offset, r.binds_key) != (e.first_offset, e.binds_key):
            self._f["idempotency"].differ(
                f"{at}: points to first offset {r.first_offset} (binds: {r.binds_key}), must be {e.first_offset} "
                f"(binds: {e.binds_key})"
            )
        if e.first_offset >= 0:
            self._f["idempotency"].count(e.outcome)
        else:
            self._f["idempotency"].count("keys")
        for step in e.emits:
            self._traffic.send(step, r)
        wrong = _wrong_fields(raw, c, e, r)
        if wrong:
            self._f["outcome"].differ(f"{at}: {wrong}")
        self._f["outcome"].count(r.outcome)
        if r.pending or e.pending:
            self._compare_pending(at, e, r)
        if r.postings or e.legs:
            self._compare_legs(at, e, r)
        if (r.pending or r.postings) and e.decided is None and not isinstance(c, Crossing):
            self._limits(at, r)  # what was set aside for others is posted whatever became of limits meanwhile

    def _compare_legs(self, at: str, e: Expected, r: JournalRecord) -> None:
        f = self._f["counters"]
        f.count("postings", len(r.postings))
        legs = tuple(
            (p.account_id, p.side, p.amount, p.currency, p.debits_pending, p.debits_posted, p.credits_pending,
             p.credits_posted) for p in r.postings
        )  # fmt: skip
        if legs != e.legs:
            if len(legs) != len(e.legs):
                f.differ(f"{at}: {len(legs)} postings, must be {len(e.legs)}")
            else:
                pairs = [(a, b) for a, b in zip(legs, e.legs, strict=True) if a != b]
                f.differ(f"{at}: posted {pairs[0][0]}, the recomputation says {pairs[0][1]}")

    def _compare_pending(self, at: str, e: Expected, r: JournalRecord) -> None:
        f = self._f["pending"]
        found = tuple(
            (p.hold_id, p.account_id, p.side, p.change, p.currency, p.expired, p.debits_pending, p.debits_posted,
             p.credits_pending, p.credits_posted) for p in r.pending
        )  # fmt: skip
        f.count("expired", sum(p.expired for p in r.pending))
        if len(found) != len(e.pending):
            f.differ(f"{at}: {len(found)} pending changes, must be {len(e.pending)}")
        elif found != e.pending:
            a, b = next((a, b) for a, b in zip(found, e.pending, strict=True) if a != b)
            f.differ(f"{at}: pending {(a[0].hex(), *a[1:])}, the recomputation says {(b[0].hex(), *b[1:])}")

    def _limits(self, at: str, r: JournalRecord) -> None:
        """No account that the entry or hold draws on may stand below its limit after it, by the journal's counters."""
        model = self.model
        legs: list[PostedLeg | PendingLeg] = [*(p for p in r.pending if p.change > 0), *r.postings]
        after = {p.account_id: p for p in legs}
        drawn = {p.account_id for p in legs if (p.side == "credit") == self._is_debit_normal(p.account_id)}
        for a in drawn:
            limit = model.floor(a) if a in model.type else None
            if limit is None:
                continue
            p = after[a]
            if self._is_debit_normal(a):
                left = p.debits_posted - p.credits_posted - p.credits_pending
            else:
                left = p.credits_posted - p.debits_posted - p.debits_pending
            self._f["limits"].count("checked")
            if left < limit:
                self._f["limits"].differ(f"{at}: {a} is left with {left}, its limit is {limit}")

    def _is_debit_normal(self, account: str) -> bool:
        return self.model.type.get(account) in DEBIT_NORMAL

    def _compare_letter(self, at: str, raw: LogRecord, letter: LogRecord, why: str) -> None:
        f = self._f["dead_letters"]
        f.count("letters")
        headers = {k: v.decode("utf-8", "replace") for k, v in letter.headers or []}
        if not why:
            f.differ(f"{at}: is a dead letter ({headers.get('reason')}), but its bytes are a valid command")
        elif headers.get("reason") != why:
            f.differ(f"{at}: the dead letter gives reason {headers.get('reason')}, must be {why}")
        if (letter.key, letter.value or b"") != (raw.key, raw.value or b""):
            f.differ(f"{at}: the dead letter does not hold the original bytes")
        origin = (headers.get("source_partition"), headers.get("received_at"))
        if origin != (str(self.partition), str(raw.timestamp_ms)):
            f.differ(f"{at}: the dead letter names another origin: {headers}")

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, end: int, group_after: int) -> None:
        p, c = self.partition, self.counts
        for _ in self._outcomes_at(2**62):
            pass
        for _ in self._letters_at(2**62):
            pass
        if self._balances:
            self._balances.close(self.model)
        if self._entries and self._drained:
            self._entries.close()
            self._entries.dead_letters(c.dead, all_kept=self._dead_from == 0)
        f = self._f["accounted"]
        for name in ("received", "settled", "rejected", "repeated", "applied", "dead"):
            f.count(name, getattr(c, name))
        f.count("waiting", self.waiting)
        done = c.settled + c.rejected + c.repeated + c.applied + c.dead
        if c.received != done:
            f.differ(f"partition {p}: {c.received} received, {done} settled, rejected, repeated, applied or dead")
        if self._drained and self.waiting:
            f.differ(f"partition {p}: {self.waiting} commands have no outcome")
        if self.excused:
            many = ", ".join(f"{n} {reason}" for reason, n in sorted(self.excused.items()))
            self.notes.append(
                f"partition {p}: dead letters that would be commands today: {many}; see `clearline dlq ls`"
            )
        self._group(group_after, end)
        for name, check in (("clickhouse", self._entries), ("redis", self._balances)):
            if check and check.lag:
                self._f[name].count("lag", check.lag)
                if self._drained:
                    self._f[name].differ(
                        f"partition {p}: {check.lag} journal records or dead letters are not projected yet"
                    )

    def _group(self, after: int, end: int) -> None:
        """The group's offset moves with the state in one Kafka transaction, so the state stands between two looks."""
        f = self._f["group_offsets"]
        f.count("partitions")
        n = self._state.next_offset
        low, high = max(self._group_before, 0), max(after, 0)
        if not low <= n <= high:
            f.differ(f"partition {self.partition}: the group stands at {high}, the state at {n}")
        if n > end:
            f.differ(f"partition {self.partition}: the state stands at {n}, the commands end at {end}")


def _named(outcome: str, reason: str) -> str:
    return f"{outcome} ({reason})" if reason else outcome


def _source_offset(letter: LogRecord) -> int:
    for name, value in letter.headers or []:
        if name == "source_offset":
            return int(value)
    return -1


_FIELDS = (
    "command_id", "payload_digest", "command", "partner_id", "idempotency_key", "product", "product_version",
    "operation", "value_date", "reference", "metadata", "booked_at", "subject_id", "original_offset",
)  # fmt: skip


def _wrong_fields(raw: LogRecord, c: Any, e: Expected, r: JournalRecord) -> str:
    """Which of the record's fields are not the command's own; empty when all are."""
    wanted = (e.command_id, e.digest, *_named_by(raw, c, e), raw.timestamp_ms, e.subject, e.original_offset)
    wrong = [
        f"{n} is {found!r}, must be {right!r}"
        for n, right in zip(_FIELDS, wanted, strict=True)
        if (found := getattr(r, n)) != right
    ]
    changes = r.changes if e.changes is None else e.changes
    if r.changes != changes and _said(r.changes) != _said(changes):
        wrong.append(f"changes is {r.changes!r}, must be {changes!r}")
    opened = tuple((o.account_id, o.type, o.currency, o.min_available, o.credit_limit) for o in r.opened)
    if opened != e.opened:
        wrong.append(f"opened is {opened!r}, must be {e.opened!r}")
    if e.decided is not None and r.reason and r.detail != e.decided.detail:
        wrong.append(f"detail is {r.detail!r}, answered was {e.decided.detail!r}")
    return "; ".join(wrong)


def _named_by(raw: LogRecord, c: Any, e: Expected) -> tuple[object, ...]:
    """Command, partner, key, product, version, operation, value date, reference and metadata of the record."""
    f = e.decided
    if f is not None:
        return ("Transaction", f.asker, f.asker_key, f.product, f.version, f.operation, f.value_date, f.reference,
                f.metadata)  # fmt: skip
    name = type(c).__name__
    if isinstance(c, Transaction | Crossing):
        value_date = c.value_date if e.value_date is None else e.value_date
        version = c.product_version if isinstance(c, Crossing) else e.version
        return (name, c.partner_id, c.idempotency_key, c.product, version, c.operation, value_date, c.reference,
                c.metadata)  # fmt: skip
    return name, c.partner_id, c.idempotency_key, "", 0, "", raw.timestamp_ms // DAY_MS, "", {}


def _said(changes: dict[str, str]) -> dict[str, str]:
    """What is said in so many words: an empty note says as much as none."""
    return {k: v for k, v in changes.items() if v}
