"""Which dead letters are meant: conditions such as `reason=unknown_schema`, all of which must hold."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from schemas.errors import BadInputError
from schemas.identity import root_of

_CONDITION = re.compile(r"([a-z_]+)(!=|!~|>=|<=|=|~|>|<)(.*)", re.DOTALL)
_AGE = re.compile(r"(\d{1,9})(s|m|h|d)")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
HELP = (
    "Only letters for which FIELD OP VALUE holds; given again, all must hold. Fields: id, original, reason, detail, "
    "pattern, partner (with what is below it), key, record, state are texts: = and != (one of several, with commas), ~ "
    "and !~ (a regular expression found in it). partition, offset, attempts, bytes, schema are numbers, received is a "
    "time (2026-11-26T10:00 in UTC), age such as 2h or 30m: also < <= > >=."
)


class Facts(NamedTuple):
    """What conditions can be about. `received`: milliseconds UTC; `schema`: -1 where bytes name none."""

    id: str
    original: str
    reason: str
    detail: str
    pattern: str
    partner: str
    key: str
    record: str
    state: str
    partition: int
    offset: int
    attempts: int
    bytes: int
    schema: int
    received: int


_TEXTS = frozenset(Facts._fields[:9])
_WHOLE = frozenset({"detail", "pattern"})  # they hold commas
Condition = Callable[[Facts], bool]


class Match:
    """Conditions, all of which must hold; none: every letter. Raises BadInputError for one that cannot be read."""

    def __init__(self, conditions: Iterable[str] = (), now_ms: int | None = None) -> None:
        self.conditions = tuple(conditions)
        self._now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        self._holds = [self._read(text) for text in self.conditions]

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def __call__(self, facts: Facts) -> bool:
        """Whether they hold for this letter."""
        return all(holds(facts) for holds in self._holds)

    def _read(self, text: str) -> Condition:
        parts = _CONDITION.fullmatch(text)
        if parts is None:
            raise BadInputError(f"--match {text!r} is no condition, such as reason=unknown_schema or detail~amount")
        field, op, value = parts.groups()
        if field in _TEXTS:
            return _text(text, field, op, value)
        if field == "age":
            return self._age(text, op, value)
        if field not in Facts._fields:
            raise BadInputError(f"--match {text!r}: fields are {', '.join([*Facts._fields, 'age'])}")
        wanted = {_time(text, value)} if field == "received" else {_number(text, v) for v in value.split(",")}
        return _number_condition(text, field, op, wanted)

    def _age(self, text: str, op: str, value: str) -> Condition:
        parts = _AGE.fullmatch(value)
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op)
        if parts is None or turned is None:
            raise BadInputError(f"--match {text!r}: an age is compared by < or > with 90s, 30m, 2h or 7d")
        since = self._now_ms - int(parts[1]) * _UNIT_MS[parts[2]]
        return _number_condition(text, "received", turned, {since})


def _text(text: str, field: str, op: str, value: str) -> Condition:
    if op in ("~", "!~"):
        try:
            pattern = re.compile(value)
        except re.error as e:
            raise BadInputError(f"--match {text!r}: not a regular expression: {e}") from None
        return lambda facts: bool(pattern.search(getattr(facts, field))) == (op == "~")
    if op not in ("=", "!="):
        raise BadInputError(f"--match {text!r}: {field} is a text, for = != ~ and !~")
    wanted = {value} if field in _WHOLE else set(value.split(","))
    if field == "partner":
        return lambda facts: _is_below(facts.partner, wanted) == (op == "=")
    return lambda facts: (getattr(facts, field) in wanted) == (op == "=")


def _is_below(partner: str, wanted: set[str]) -> bool:
    """Whether a partner is one of these, or below one of them."""
    return bool(partner) and any(partner == w or partner.startswith(f"{w}/") for w in wanted)


def _number_condition(text: str, field: str, op: str, wanted: set[int]) -> Condition:
    if op in ("=", "!="):
        return lambda facts: (getattr(facts, field) in wanted) == (op == "=")
    if op not in ("<", "<=", ">", ">=") or len(wanted) != 1:
        raise BadInputError(f"--match {text!r}: {field} is a number, for = != < <= > and >=")
    (limit,) = wanted
    compare: Callable[[Any, Any], bool] = {
        "<": int.__lt__, "<=": int.__le__, ">": int.__gt__, ">=": int.__ge__,
    }[op]  # fmt: skip
    return lambda facts: compare(getattr(facts, field), limit)


def _number(text: str, value: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", value):
        raise BadInputError(f"--match {text!r}: {value!r} is not a whole number")
    return int(value)


def _time(text: str, value: str) -> int:
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise BadInputError(f"--match {text!r}: {value!r} is not a time such as 2026-11-26T10:00") from None
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)


_NUMBER = re.compile(r"\d+")
_TREE = re.compile(r"commands of .+ belong")


def pattern_of(detail: str) -> str:
    """A detail without what differs from letter to letter: numbers and partners."""
    return _NUMBER.sub("N", _TREE.sub("commands of ... belong", detail))[:160]


def partner_of(partner_id: str, key: bytes | None) -> str:
    """Whose a letter is: the record's partner; of bytes that do not decode the root that its Kafka key names."""
    return partner_id or root_of((key or b"").decode("utf-8", "replace"))
