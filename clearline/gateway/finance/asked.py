"""What a page is asked: parameters of a report and up to where, from the query, and the links that carry them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from clearline.gateway.finance.cells import Cell, Head, Table, cell, moment_text
from clearline.gateway.reporting import When
from sinks.finance.catalogue import Parameter, Report
from sinks.finance.cut import LAST_MOMENT, Cut

MOMENTS = ("cut", "known_at", "closed")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form. `choices`: values and what they are called; empty for an input of this `type`."""

    name: str
    label: str
    type: str
    value: str
    about: str = ""
    choices: Sequence[tuple[str, str]] = ()
    required: bool = False
    wide: bool = False
    step: str = ""


@dataclass(frozen=True, slots=True)
class AsOf:
    """Up to where a page's figures go. `link`: this page with exactly these figures, empty when it has none yet;
    `newest`: this page at the head; `said`: of which cut that is, where it is no report's."""

    cut: str
    known_at: str
    last: str
    pinned: bool
    link: str
    newest: str
    places: Table
    said: str = ""


def link(path: str, values: Mapping[str, str], **more: str) -> str:
    """A path with what is not empty of these values."""
    wanted = {**values, **more}
    query = urlencode({n: v for n, v in wanted.items() if v != ""}, safe=":,/")
    return f"{path}?{query}" if query else path


def when_of(query: Mapping[str, str]) -> When:
    """Up to where a page was asked to go."""
    return When(*(query.get(name, "").strip() for name in MOMENTS))


def pinned(cut: Cut) -> dict[str, str]:
    """The query that leads to this cut again; empty while there is nothing in it."""
    if not cut.places:
        return {}
    known_at = "" if cut.known_at == LAST_MOMENT else cut.known_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return {"cut": cut.text, **({"known_at": known_at} if known_at else {})}


def given_of(report: Report, query: Mapping[str, str]) -> dict[str, str]:
    """The report's parameters that the query has; what is empty was not given."""
    wanted = {p.name: query.get(p.name, "").strip() for p in report.parameters}
    return {name: value for name, value in wanted.items() if value}


_SAID = ("since", "until", "on", "by", "lines_max")  # whose names say all


def fields_of(report: Report, given: Mapping[str, str], label: Any) -> list[Field]:
    """The fields for a report's parameters. `label`: gives a parameter's name in words, or a choice's."""
    return [_field(p, given.get(p.name), label) for p in report.parameters]


def _field(p: Parameter, value: str | None, label: Any) -> Field:
    about = "" if p.name in _SAID else p.about
    if p.asked == "choice":
        choices = [(c, label(c)) for c in p.choices]
        return Field(p.name, label(p.name), "", value or p.default or "", about, choices)
    kind = {"date": "date", "moment": "datetime-local", "count": "number"}.get(p.asked, "text")
    shown = value if value is not None else "" if p.asked in ("date", "moment") or p.default is None else p.default
    wide = p.asked in ("partner", "account", "text")
    return Field(p.name, label(p.name), kind, shown, about, required=p.default is None, wide=wide)


def moment_fields(query: Mapping[str, str], say: Any) -> list[Field]:
    """The fields for up to where figures go."""
    when = when_of(query)
    return [
        Field("closed", say("moment.closed"), "date", when.closed),
        Field("known_at", say("moment.known_at"), "datetime-local", _local(when.known_at), step="0.001"),
        Field("cut", say("moment.cut"), "text", when.cut, say("moment.cut.help"), wide=True),
    ]


def _local(text: str) -> str:
    """A moment as an input of type datetime-local takes it; as it was typed when it is none."""
    with suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(text)
        utc = at.astimezone(UTC) if at.tzinfo else at
        return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03}"
    return text


def as_of(cut: Cut, path: str, query: Mapping[str, str], now_ms: int, say: Any) -> AsOf:
    """What a page says of its cut. `query`: of the page, without MOMENTS; `now_ms`: when it is made."""
    asked = {n: v for n, v in query.items() if n not in MOMENTS}
    rows = [
        [
            cell("count", partition), cell("count", at.sequence), cell("count", at.journal_offset),
            cell("count", at.source_offset), Cell(_booked(at.booked_at)),
        ]
        for partition, at in sorted(cut.places.items())
    ]  # fmt: skip
    heads = [
        Head(say(f"as_of.{name}"), name != "booked_at")
        for name in ("partition", "sequence", "journal_offset", "source_offset", "booked_at")
    ]
    newest = max((at.booked_at for at in cut.places.values()), default=0)
    note = say("as_of.ago", seconds=f"{max(0, (now_ms - newest) // 1000):,}") if newest else ""
    known_at = "" if cut.known_at == LAST_MOMENT else moment_text(cut.known_at)
    exact = pinned(cut)
    return AsOf(
        cut.text, known_at, _booked(newest) if newest else "", any(query.get(n) for n in ("cut", "closed")),
        link(path, asked, **exact) if exact else "", link(path, asked),
        Table(say("as_of.places"), heads, rows, note=note),
    )  # fmt: skip


def _booked(milliseconds: int) -> str:
    return moment_text(datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds))
