"""`clearline explain`: what became of a command, in plain words, from the journal itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clearline import screen
from clearline.commands.common import example, live_settings
from schemas.errors import BadInputError, PartUnavailableError

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.explain.history import History
    from clearline.explain.story import Explanation
    from sinks.clickhouse import ClickHouseConfig

_ID_DIGITS = 32


def register(app: typer.Typer) -> None:
    app.command(
        "explain",
        **example("clearline explain acme o-1001", "clearline explain 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --lang zh"),
    )(explain)


def explain(
    first: Annotated[str, typer.Argument(metavar="ID|PARTNER", help="The command's id, or who asked for it.")],
    key: Annotated[str, typer.Argument(help="Its idempotency key, after the partner.")] = "",
    lang: Annotated[Literal["en", "zh"], typer.Option(help="English or Chinese.")] = "en",
    as_json: screen.JsonFlag = False,
) -> None:
    """Tell what was asked, what happened at each step, why it was refused and what would make it pass."""
    from clearline.connection import clickhouse_config
    from schemas.identity import command_id

    cid = command_id(first, key) if key else _read_id(first)
    settings = live_settings()
    try:
        told = asyncio.run(_explain(settings, clickhouse_config(settings), cid, lang))
    except PartUnavailableError as e:
        if e.part != "ClickHouse":
            raise
        screen.say(f"ClickHouse cannot be asked ({e}): reading the whole journal")
        told = asyncio.run(_explain(settings, None, cid, lang))
    if told is None:
        name = f"{first} {key}" if key else first
        raise BadInputError(
            f"the journal has no outcome of {name}: was it published, and are partner and key spelled so?"
        )
    document = told.to_dict()
    rows = [(s.at, s.partition, s.offset, s.text) for s in told.steps]
    parts: list[Any] = [told.summary, screen.table("", ("at", "partition", "offset", "what happened"), rows)]
    parts += [text for text in (told.why, told.cure) if text]
    screen.answer(document, as_json, parts)


def _read_id(text: str) -> bytes:
    try:
        cid = bytes.fromhex(text)
    except ValueError:
        cid = b""
    if len(text) != _ID_DIGITS or not cid:
        raise BadInputError(f"{text!r} is no command id (32 hex digits); or give the partner and its key")
    return cid


async def _explain(
    settings: Settings, clickhouse: ClickHouseConfig | None, cid: bytes, lang: Literal["en", "zh"]
) -> Explanation | None:
    """The explanation of a command, from a system that runs, as the bank may see it. None when nobody knows it."""
    from clearline.audit.live import LearningCodec
    from clearline.connection import connect, registry_of
    from clearline.explain.history import gather
    from clearline.explain.story import Reader, tell
    from streams.finder import Finder

    system = connect(settings)
    decode = LearningCodec(system.codec, registry_of(settings)).decode
    async with Finder(system.kafka, clickhouse, system.topics, decode, system.partitions, workers=1) as finder:
        found = await finder.by_id(cid)
        if found is None:
            return None
        history = await gather(finder, found)
        return tell(history, Reader(lambda _account: True, _types(clickhouse, history)), lang)


def _types(clickhouse: ClickHouseConfig | None, history: History) -> dict[str, str]:
    """The types of the accounts that took part, from ClickHouse; none when it does not answer."""
    from clearline.explain.story import accounts_of
    from sinks.pages import Pages

    if clickhouse is None:
        return {}
    pages = Pages(clickhouse)
    try:
        return {t.account_id: t.type for t in pages.terms(accounts_of(history))}
    except PartUnavailableError:
        return {}
    finally:
        pages.close()
