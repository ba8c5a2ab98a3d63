"""Pages of lists: the cursor, which carries its query, so that the next page needs nothing else.

A cursor is opaque and holds nothing that its reader may not know: the query, in whose name it was asked, and after
which item the next page begins. It is not a secret: who makes one up sees what he may see anyway.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Collection, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any, NoReturn, TypeVar

import msgspec
from fastapi import Request

from clearline.contract import ERRORS_MAX, ContractError, FieldError
from clearline.gateway.problems import Problem

T = TypeVar("T")

_SUM_BYTES = 6
_json = msgspec.json.Encoder()


def encode(name: str, acting: str, query: Mapping[str, str], after: Any) -> str:
    """A cursor into a list. `name`: of the list; `query`: its parameters; `after`: where the next page begins, of
    whatever JSON can hold."""
    body = _json.encode([name, acting, query, after])
    return _shown(_sum(body) + body)


def decode(
    cursor: str, name: str, acting: str, given: Mapping[str, str | None], kind: type[T]
) -> tuple[dict[str, str], T]:
    """The query of a cursor, and where its page begins, as a `kind`.

    Raises Problem("cursor_invalid") when it is none of ours, is of another list or partner, or when a parameter that
    is `given` is another one than the query's.
    """
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        body = raw[_SUM_BYTES:]
        # The second look is for letters that do not count: a cursor is taken in one spelling only.
        if raw[:_SUM_BYTES] != _sum(body) or _shown(raw) != cursor:
            _invalid()
        found, asker, query, after = msgspec.json.decode(body, type=tuple[str, str, dict[str, str], Any])
        key = msgspec.convert(after, kind)
    except (NotBase64, ValueError, msgspec.MsgspecError):  # UnicodeError is a ValueError
        _invalid()
    if found != name or asker != acting:
        raise Problem("cursor_invalid", "cursor: it belongs to another list, or to another partner")
    if query.keys() != given.keys():  # its sum is no seal: anybody can put one together
        _invalid()
    for parameter, value in given.items():
        if value is not None and value != query.get(parameter):
            raise Problem("cursor_invalid", f"cursor: it was made for {parameter}={query.get(parameter)}")
    return query, key


def only_query(request: Request, names: Collection[str]) -> None:
    """Raises ContractError for a parameter of the query that is none of these, or given twice: one that is not
    understood would change what is answered without anybody noticing."""
    rule = f"is not a parameter here; known are {', '.join(names)}" if names else "no parameter is taken here"
    others = (n for n in dict.fromkeys(request.query_params.keys()) if n not in names)
    strange = [FieldError(n[:64], rule) for n in islice(others, ERRORS_MAX)]
    twice = [FieldError(n, "is given twice") for n in names if len(request.query_params.getlist(n)) > 1]
    if strange or twice:
        raise ContractError([*strange, *twice])


def _shown(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _sum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_SUM_BYTES).digest()


def _invalid() -> NoReturn:
    raise Problem("cursor_invalid", "cursor: must be `next_cursor` of the page before, unchanged")
