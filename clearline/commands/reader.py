"""`clearline reader`: users of ClickHouse for partners' BI tools, who read their own rows and change nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live_settings, looks_only
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.config import Settings
    from sinks.clickhouse import Database
    from sinks.finance.readers import Reader

_PASSWORD_BYTES = 24
NameOption = Annotated[str, typer.Option(help="The user's name; made from the partner's unless given.")]
TreeOption = Annotated[bool, typer.Option("--tree", help="The rows of all partners below it as well.")]
Name = Annotated[str, typer.Argument(help="The reader's name, as `clearline reader list` has it.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="reader", help="ClickHouse users for partners' BI tools: their own rows, read only.",
        epilog="Example: clearline reader add acme --tree",
    )  # fmt: skip
    group.command("add", **example("clearline reader add acme --tree --queries 500"))(add)
    group.command("list", **example("clearline reader list"))(list_)
    group.command("show", **example("clearline reader show acme --tree"))(show)
    group.command("remove", **example("clearline reader remove acme_reader"))(remove)


def add(
    partner: Annotated[str, typer.Argument(help="The partner's path, such as acme or acme/shop-17.")],
    name: NameOption = "",
    tree: TreeOption = False,
    queries: Annotated[int, typer.Option(min=0, help="Queries an hour; 0 for any number.")] = 1_000,
    read_rows: Annotated[int, typer.Option(min=0, help="Rows read an hour; 0 for any number.")] = 20_000_000_000,
    seconds: Annotated[int, typer.Option(min=0, help="Seconds of execution an hour; 0 for any number.")] = 1_800,
    query_seconds: Annotated[
        int, typer.Option(min=1, help="The most that one query may ask for by max_execution_time.")
    ] = 60,
    dry_run: Annotated[bool, looks_only("Print the SQL that would make it")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Make a reader, or make it anew with another password. The password is shown once and kept nowhere."""
    from sinks.finance.readers import document, shape, statements

    settings, db = _ledger()
    reader = _reader(partner, name, tree, (queries, read_rows, seconds, query_seconds))
    _known(db, partner)
    if dry_run:
        said = statements(reader, shape(db), "HASH", "SALT")
        screen.answer({"dry_run": True, "statements": said}, as_json, [f"{statement};" for statement in said])
        return
    found, password = shape(db), secrets.token_urlsafe(_PASSWORD_BYTES)
    digest, salt = _digest(password)
    if _embedded():
        _in_file(settings, lambda readers: readers | {reader.name: document(reader, found, digest, salt)})
    else:
        for statement in statements(reader, found, digest, salt):
            db.run(statement)
    told = {
        "reader": reader.name, "partner": partner, "tree": tree, "database": found.database, "password": password,
        "host": settings.clickhouse.host, "port": settings.clickhouse.port,
        "http_port": settings.clickhouse.http_port, "tables": list(found.tables), "views": list(found.views),
    }  # fmt: skip
    screen.answer(
        told,
        as_json,
        [
            f"{reader.name} may read {partner}{' and all below it' if tree else ''} in {found.database}, at "
            f"{settings.clickhouse.host}: HTTP port {settings.clickhouse.http_port}, native port "
            f"{settings.clickhouse.port}",
            f"tables {', '.join(found.tables)}; views {', '.join(found.views) or 'none'}",
            "its password, shown only now:",
            password,
        ],
    )


def list_(as_json: screen.JsonFlag = False) -> None:
    """Readers there are, without anything secret."""
    settings, db = _ledger()
    names = sorted(_readers(settings, db))
    screen.answer({"readers": names}, as_json, names or ["there are no readers"])


def show(
    partner: Annotated[str, typer.Argument(help="The partner's path, such as acme or acme/shop-17.")],
    name: NameOption = "",
    tree: TreeOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Print the SQL that makes a reader on a server, with a place for its password's hash. Changes nothing."""
    from sinks.finance.readers import shape, statements

    _, db = _ledger()
    reader = _reader(partner, name, tree)
    said = statements(reader, shape(db), "HASH", "SALT")
    screen.answer({"statements": said}, as_json, [f"{statement};" for statement in said])


def remove(
    name: Name,
    dry_run: Annotated[bool, looks_only("Say whether there is such a reader")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """End a reader: its next query is refused."""
    from sinks.finance.readers import removal, shape

    settings, db = _ledger()
    if name not in _readers(settings, db):
        raise BadInputError(f"there is no reader {name}; see `clearline reader list`")
    if dry_run:
        screen.answer({"dry_run": True, "removed": name}, as_json, [f"{name} would be ended"])
        return
    if _embedded():
        _in_file(settings, lambda readers: {key: value for key, value in readers.items() if key != name})
    else:
        for statement in removal(name, shape(db)):
            db.run(statement)
    screen.answer({"removed": name}, as_json, [f"{name} may read no more"])


def _ledger() -> tuple[Settings, Database]:
    from clearline.connection import clickhouse_config
    from sinks.clickhouse import Database

    settings = live_settings()
    return settings, Database(clickhouse_config(settings))


def _embedded() -> bool:
    """Whether ClickHouse is the embedded stack's, which keeps its readers in a file."""
    from clearline.config import load_settings

    return load_settings().clickhouse.host is None


def _reader(partner: str, name: str, tree: bool, quota: tuple[int, int, int, int] | None = None) -> Reader:
    from sinks.finance.readers import Limits, Reader, default_name

    limits = Limits()
    if quota is not None:
        queries, rows, seconds, query_seconds = quota
        limits = Limits(
            execution_seconds=min(limits.execution_seconds, query_seconds), execution_seconds_max=query_seconds,
            queries_per_hour=queries, read_rows_per_hour=rows, execution_seconds_per_hour=seconds,
        )  # fmt: skip
    return Reader(name or default_name(partner), partner, tree, limits)


def _known(db: Database, partner: str) -> None:
    """Raises BadInputError for a partner that was not admitted: a typing error would make a reader of nobody."""
    asked = "SELECT count() FROM control_changes WHERE subject_id = %(partner)s AND command = 'AdmitPartner'"
    if not db.rows(asked, {"partner": partner})[0][0]:
        raise BadInputError(f"there is no partner {partner} in ClickHouse; see `clearline partner list`")


def _digest(password: str) -> tuple[str, str]:
    from clearline.embedded.clickhouse.readers import digest, new_salt

    salt = new_salt()
    return digest(password, salt), salt


def _readers(settings: Settings, db: Database) -> set[str]:
    from clearline.embedded.clickhouse.readers import read
    from sinks.finance.readers import PREFIX

    if _embedded():
        return set(read(_file(settings)))
    asked = "SELECT name FROM system.settings_profiles WHERE startsWith(name, %(prefix)s)"
    return {name.removeprefix(PREFIX) for (name,) in db.rows(asked, {"prefix": PREFIX})}


def _in_file(settings: Settings, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    from clearline.embedded.clickhouse.readers import read, write

    file = _file(settings)
    write(file, change(read(file)))


def _file(settings: Settings) -> Path:
    from clearline.embedded.clickhouse.readers import READERS_FILE
    from clearline.embedded.folder import DataFolder

    return DataFolder(settings.data_dir).part("clickhouse") / READERS_FILE
