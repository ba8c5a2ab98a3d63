"""A report as an HTTP answer: format, cut, ETag and for how long it may be kept. The same for reports and data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC
from functools import cache, partial
from types import MappingProxyType
from typing import NamedTuple

from fastapi import Request
from fastapi.responses import Response

from clearline.contract import ContractError, FieldError
from clearline.finance import formats
from clearline.gateway.paging import only_query
from clearline.gateway.principal import Principal
from clearline.gateway.reporting import HEAD_S, Question, When, question_of
from clearline.gateway.scoping import scoped, whose
from clearline.gateway.security import parts_of
from schemas.errors import BadInputError
from sinks.finance.ask import Result
from sinks.finance.catalogue import Report
from sinks.finance.cut import LAST_MOMENT, Cut
from sinks.finance.data import shaped

FIXED_S = 86_400  # a day: an answer at a cut never changes
_NOTHING: Mapping[str, str] = MappingProxyType({})
WHEN = ("cut", "known_at", "closed")
_TAG = re.compile(r'(?:W/)?("[^"]*")|(\*)')
_NAMED = re.compile(r"([a-z_]{1,64}): (.*)", re.S)


class Form(NamedTuple):
    """A format: its name, what Content-Type says and what Accept may say, and what makes it."""

    name: str
    media: str
    render: Callable[[Result], bytes]


class Asked(NamedTuple):
    """What a request asks for: a report, its parameters as they came, up to where, and in which format."""

    report: Report
    given: dict[str, str]
    when: When
    form: Form


def asked_of(request: Request, report: Report, path: Mapping[str, str] = _NOTHING, own: Collection[str] = ()) -> Asked:
    """What the query asks for. `path`: parameters that the path has; `own`: of the route's own.

    Raises ContractError for a parameter that the report does not have, or twice.
    """
    names = [p.name for p in report.parameters if p.name not in path]
    only_query(request, (*names, *own, *WHEN, "format"))
    query = request.query_params
    empty = [FieldError(n, "must not be empty") for n in WHEN if query.get(n) == ""]
    if empty:
        raise ContractError(empty)
    given = {**path, **{n: query[n] for n in names if n in query}}
    try:
        return Asked(shaped(report, given), given, When(*(query.get(n, "") for n in WHEN)), _form(request))
    except BadInputError as e:
        raise field_error(e) from None


async def answer(request: Request, who: Principal, asked: Asked) -> Response:
    """The report, or 304 when the asker has it already. Raises Problem and ContractError."""
    parts, form = parts_of(request), asked.form
    try:
        given = await scoped(parts, who, asked.report, asked.given)
        question = await question_of(parts.reporting, asked.report, given, asked.when, whose(who))
        tag = question.tag(form.name)
        headers = _headers(question, tag)
        if _has(request, tag):
            return Response(status_code=304, headers=headers)
        body = await parts.reporting.file(question, form.name, form.render)
    except BadInputError as e:
        raise field_error(e) from None
    if form.name != "json":
        headers["Content-Disposition"] = f'attachment; filename="{asked.report.name}.{form.name}"'
    return Response(body, headers=headers, media_type=form.media)


@cache
def forms() -> dict[str, Form]:
    """All formats by name; the first is what is answered unless another is asked for."""
    found = (Form(name, media, partial(formats.to_bytes, form=name)) for name, media in formats.CONTENT_TYPES.items())
    return {f.name: f for f in found}


def as_of_text(cut: Cut) -> str:
    """The header Clearline-As-Of: partition and sequence with commas between, and `known_at` when one was given."""
    known_at = cut.known_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (cut.text or "0:0") + ("" if cut.known_at == LAST_MOMENT else f"; known_at={known_at}")


def _headers(question: Question, tag: str) -> dict[str, str]:
    place = question.place
    keep = f"private, max-age={FIXED_S}, immutable" if question.fixed else f"private, max-age={math.ceil(HEAD_S)}"
    return {
        "Clearline-As-Of": as_of_text(place.cut), "ETag": tag, "Cache-Control": keep, "Age": str(int(place.age_s)),
        "Vary": "Accept, Authorization, Clearline-Partner, Signature",
    }  # fmt: skip


def _form(request: Request) -> Form:
    """The format: what `format` says, else the first of Accept that there is, else JSON."""
    named = request.query_params.get("format")
    if named is not None:
        if named not in forms():
            raise ContractError([FieldError("format", f"must be one of {', '.join(forms())}")])
        return forms()[named]
    by_media = {f.media.partition(";")[0]: f for f in forms().values()}
    wanted: list[tuple[float, int, str]] = []
    for at, part in enumerate(",".join(request.headers.getlist("accept")).split(",")):
        media, _, rest = part.strip().partition(";")
        weight = re.search(r"\bq\s*=\s*([0-9.]{1,5})", rest)
        try:
            q = float(weight[1]) if weight else 1.0
        except ValueError:
            q = 0.0
        if q > 0:
            wanted.append((-q, at, media.strip().lower()))
    for _, _, media in sorted(wanted):
        if media in by_media:
            return by_media[media]
        if media in ("*/*", "application/*"):
            break
    return forms()["json"]


def _has(request: Request, tag: str) -> bool:
    """Whether If-None-Match names this answer."""
    found = _TAG.findall(",".join(request.headers.getlist("if-none-match")))
    return any(star or named == tag for named, star in found)


def field_error(e: BadInputError) -> ContractError | BadInputError:
    """The parameter and its rule, when the error names them."""
    named = _NAMED.fullmatch(str(e))
    return ContractError([FieldError(named[1], named[2])]) if named else e
