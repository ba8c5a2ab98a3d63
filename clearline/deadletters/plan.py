"""What a redrive or a discard would do, decided letter by letter before anything is done.

The rules that keep a command from being applied twice are here, and hold again after the task has fenced whoever was
before it: a letter is put back once, unless it is asked for `again`; of one family no two different commands may be
applied, so another one is put back only when those before are known to have died or to have been rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from clearline.deadletters.judge import Judge, Refusal, schema_id_of
from clearline.deadletters.letters import Found
from clearline.deadletters.match import Facts, Match, partner_of, pattern_of
from clearline.deadletters.moves import REDRIVEN, Moves
from schemas.codec import UndecodableError
from schemas.errors import PartUnavailableError
from schemas.identity import command_id
from schemas.records import Command, Crossing, Triage
from streams.triage import PutBack, Row

ATTEMPTS_MAX = 3
SKIPPED = ("already_redriven", "already_discarded")  # nothing is wrong with these
_SHOWN = 100
# A partner may have given the same key long before; what the ledger has forgotten of it by the time that its letter is
# put back, it would apply again. So an older letter is put back only if no outcome of its key is stored.
PROOF_AFTER_MS = 3_600_000
# Outcomes that are stored of commands, by their ids: each one's partition and offset in the log, and the outcome.
# Raises PartUnavailableError.
Answered = Callable[[Sequence[bytes]], Mapping[bytes, Sequence[tuple[int, int, str]]]]
# What became of a command that was put back: settled, applied, rejected, repeated, dead, or "" while nobody knows.
OutcomeOf = Callable[[Row], str]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a plan may do. `again`: letters that were put back before, too; `attempts_max`: how often a command may have
    died before it is taken for a loop."""

    what: str = "redrive"
    again: bool = False
    loops: bool = False
    attempts_max: int = ATTEMPTS_MAX


@dataclass(frozen=True, slots=True)
class Put:
    """A letter that is to be moved. `value`: the correction; None for the bytes as they came. The rest is of the
    command that is put back; nothing of one that is discarded."""

    partition: int
    offset: int
    first: str
    attempts: int
    size: int
    reason: str
    received_at: int
    letter_digest: bytes
    value: bytes | None = None
    payload_digest: bytes = b""
    to_partition: int = -1
    key: bytes = b""
    command_id: bytes = b""
    partner_id: str = ""
    idempotency_key: str = ""

    @property
    def id(self) -> str:
        return f"{self.partition}:{self.offset}"

    @property
    def line(self) -> str:
        """What the plan's digest says of it."""
        return f"{self.id} {self.letter_digest.hex()} {self.payload_digest.hex()}"

    def command(self, value: bytes) -> PutBack:
        """What is written into the log; `value`: the letter's bytes."""
        payload = value if self.value is None else self.value
        return PutBack(self.to_partition, self.key, payload, self.first, self.attempts)

    def row(self, task: str, move: str, by: str, note: str, offset: int) -> Triage:
        """What is kept of it."""
        return Triage(
            task, move, self.id, self.first, self.attempts, self.letter_digest, self.payload_digest,
            self.value is not None, self.command_id, self.partner_id, self.idempotency_key, self.to_partition, offset,
            by, note, value=self.value,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id, "original": self.first, "reason": self.reason, "attempts": self.attempts,
            "edited": self.value is not None, "partner_id": self.partner_id, "idempotency_key": self.idempotency_key,
            "to_partition": self.to_partition, "bytes": self.size,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refused:
    """A letter that is meant and not moved."""

    id: str
    code: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        return {"id": self.id, "code": self.code, "detail": self.detail}


@dataclass(slots=True)
class Plan:
    """Which letters are moved, and why others are not."""

    rules: Rules
    puts: list[Put] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    @property
    def matched(self) -> int:
        return len(self.puts) + len(self.refused)

    @property
    def digest(self) -> bytes:
        """SHA-256 of every letter and what is put back for it, in their order."""
        lines = "\n".join([self.rules.what, *(p.line for p in self.puts)])
        return sha256(lines.encode()).digest()

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many are skipped, and how many refused, by code."""
        codes = Counter(r.code for r in self.refused)
        return ({c: n for c, n in sorted(codes.items()) if c in SKIPPED},
                {c: n for c, n in sorted(codes.items()) if c not in SKIPPED})  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the first hundred letters of each kind among them."""
        skipped, refused = self.counts()
        return {
            "what": self.rules.what, "digest": self.digest.hex(), "matched": self.matched, "to_move": len(self.puts),
            "edited": sum(p.value is not None for p in self.puts), "skipped": skipped, "refused": refused,
            "partitions": {str(k): n for k, n in sorted(Counter(p.to_partition for p in self.puts).items()) if k >= 0},
            "letters": [p.to_dict() for p in self.puts[:_SHOWN]],
            "not_moved": [r.to_dict() for r in sorted(self.refused, key=lambda r: r.code in SKIPPED)[:_SHOWN]],
        }  # fmt: skip


def facts_of(found: Found, moves: Moves, judge: Judge) -> Facts:
    """What conditions can be about, of one letter."""
    x = found.letter
    try:
        record = judge.read(x.value)
        name = type(record).__name__
    except UndecodableError:
        record, name = None, ""
    partner, key = (str(getattr(record, n, "")) for n in ("partner_id", "idempotency_key"))
    return Facts(
        found.id, moves.first_of(found), x.reason, x.detail, pattern_of(x.detail), partner_of(partner, x.key), key,
        name, moves.state(found), x.source_partition, x.source_offset, moves.attempts(found), len(x.value or b""),
        schema_id_of(x.value), x.received_at,
    )  # fmt: skip


class Planner:
    """Makes plans. `outcome_of` is asked only where two different commands of one family meet. `answered` is asked for
    letters that are older than an hour; `memory_ms`: for how long the ledger remembers a key at least."""

    def __init__(self, judge: Judge, outcome_of: OutcomeOf, answered: Answered, memory_ms: int) -> None:
        self._judge = judge
        self._outcome_of = outcome_of
        self._answered = answered
        self._memory_ms = memory_ms

    def plan(self, letters: Iterable[Found], moves: Moves, match: Match, rules: Rules) -> Plan:
        """The plan for all letters that match."""
        plan = Plan(rules)
        planned: dict[str, bytes] = {}
        for found in letters:
            if not match or match(facts_of(found, moves, self._judge)):
                self._decide(plan, planned, found, moves, None)
        return plan

    def plan_edited(self, letters: Iterable[Found], edits: Mapping[str, bytes], moves: Moves, rules: Rules) -> Plan:
        """The plan for corrections: bytes by the letter's id."""
        plan = Plan(rules)
        planned: dict[str, bytes] = {}
        for found in letters:
            self._decide(plan, planned, found, moves, edits[found.id])
        return plan

    def prove(self, plan: Plan, moves: Moves, now_ms: int) -> Plan:
        """The same plan without old letters whose key was answered before, or of which nobody can say so now."""
        old = {p.command_id for p in plan.puts if p.command_id and now_ms - p.received_at > PROOF_AFTER_MS}
        if not old:
            return plan
        away, stored = "", dict[bytes, Sequence[tuple[int, int, str]]]()
        try:
            stored = dict(self._answered(sorted(old)))
        except PartUnavailableError as e:
            away = str(e)
        out = Plan(plan.rules, refused=list(plan.refused))
        for put in plan.puts:
            others = self._others(put, stored.get(put.command_id, ()), moves, now_ms)
            if put.command_id in old and away:
                why = f"it is older than an hour, and whether its key was used before is not known: {away}"
                out.refused.append(Refused(put.id, "unproven", why))
            elif others:
                partition, offset, outcome = others[0]
                told = f"{put.partner_id} {put.idempotency_key} is {outcome} already, by the command at "
                told += f"{partition}:{offset}"
                out.refused.append(Refused(put.id, "answered_before", told))
            else:
                out.puts.append(put)
        return out

    def _others(
        self, put: Put, stored: Sequence[tuple[int, int, str]], moves: Moves, now_ms: int
    ) -> list[tuple[int, int, str]]:
        """Of the outcomes under a letter's key those that the ledger may have forgotten: all but those of commands that
        were put back for it not long ago."""
        since = now_ms - self._memory_ms // 2
        own = {(r.triage.to_partition, r.triage.to_offset) for r in moves.family(put.first) if r.at > since}
        return [s for s in stored if s[:2] not in own]

    def again(self, plan: Plan, moves: Moves) -> Plan:
        """The same plan after `moves` has learnt more: what was done meanwhile is not done again."""
        out = Plan(plan.rules, refused=list(plan.refused))
        for put in plan.puts:
            try:
                self._admit(put, moves.rows_of(put.id, put.letter_digest), moves, plan.rules)
                out.puts.append(put)
            except Refusal as r:
                out.refused.append(Refused(put.id, r.code, r.detail))
        return out

    def _decide(self, plan: Plan, planned: dict[str, bytes], found: Found, moves: Moves, edit: bytes | None) -> None:
        x, rules, first = found.letter, plan.rules, moves.first_of(found)
        tried = max(moves.attempts(found), len(moves.family(first)) + 1)
        put = Put(
            found.partition, found.offset, first, tried, len(x.value or b""), x.reason, x.received_at, found.digest
        )
        try:
            done = moves.of(found)
            self._check_done(edited=edit is not None, done=done, rules=rules)  # what is done needs no decoding
            if rules.what == "redrive":
                put = self._to_put_back(put, found, edit)
                before = planned.get(put.first, put.command_id)
                if before != put.command_id:
                    raise Refusal("two_commands", f"another command is put back for {put.first} by this same plan")
            self._admit(put, done, moves, rules)
        except Refusal as r:
            plan.refused.append(Refused(found.id, r.code, r.detail))
            return
        planned[put.first] = put.command_id
        plan.puts.append(put)

    def _to_put_back(self, put: Put, found: Found, edit: bytes | None) -> Put:
        """The letter with the command in its bytes, or in those of its correction. Raises Refusal."""
        value = found.letter.value if edit is None else edit
        command: Command = self._judge.command(value)
        if edit is not None:
            self._check_edit(found, command)
        route = self._judge.route(command, found.letter.source_partition)
        return replace(
            put, value=edit, payload_digest=sha256(value or b"").digest(), to_partition=route.partition, key=route.key,
            command_id=command_id(command.partner_id, command.idempotency_key), partner_id=command.partner_id,
            idempotency_key=command.idempotency_key,
        )  # fmt: skip

    def _check_edit(self, found: Found, command: Command) -> None:
        """What every partition was told cannot be corrected in one of them. Raises Refusal."""
        if isinstance(command, Crossing):
            raise Refusal("not_editable", "a step between partitions is a worker's: it cannot be written by hand")
        if self._judge.is_for_all(command):
            raise Refusal("not_editable", f"a {type(command).__name__} goes to every partition: give it anew instead")
        try:
            original = self._judge.read(found.letter.value)
        except UndecodableError:
            return
        if isinstance(original, Crossing):
            raise Refusal("not_editable", "a step between partitions is a worker's: it cannot be replaced")

    def _check_done(self, *, edited: bool, done: list[Row], rules: Rules) -> None:
        """Whether nothing was done yet that makes this superfluous. Raises Refusal."""
        if not done or rules.again:
            return
        last = done[-1].triage
        if last.move != REDRIVEN:
            raise Refusal("already_discarded", f"discarded by {last.requested_by or 'somebody'}, task {last.task}")
        if not edited:
            raise Refusal("already_redriven", f"put back by task {last.task}")

    def _admit(self, put: Put, done: list[Row], moves: Moves, rules: Rules) -> None:
        """Whether this may be done after what was done. Raises Refusal."""
        self._check_done(edited=put.value is not None, done=done, rules=rules)
        if rules.what == "discard":
            return
        same = [r for r in done if r.triage.move == REDRIVEN and r.triage.payload_digest == put.payload_digest]
        if same and not rules.again:
            raise Refusal("already_redriven", f"put back by task {same[-1].triage.task}")
        for row in moves.family(put.first):
            if row.triage.command_id != put.command_id:
                self._check_other(put, row)
        if put.attempts >= rules.attempts_max and not rules.loops:
            raise Refusal("loop", f"it has died {put.attempts} times; give --yes to put it back all the same")

    def _check_other(self, put: Put, row: Row) -> None:
        """Another command was put back for the same letter before: it must not have been applied. Raises Refusal."""
        t, outcome = row.triage, self._outcome_of(row)
        if outcome in ("dead", "rejected"):
            return
        named = f"{t.partner_id} {t.idempotency_key}, put back for {t.letter} by task {t.task}"
        if not outcome:
            raise Refusal("undecided", f"{named}, has no outcome yet: try again when it has one")
        raise Refusal("applied_before", f"{named}, was {outcome}: a second one would be applied beside it")
