"""`clearline backup`: topics, schemas and ClickHouse into a folder, checked, and back (docs/production.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clearline import screen
from clearline.commands.common import example, live_settings
from schemas.errors import BadInputError

Folder = Annotated[Path, typer.Argument(help="The folder of the backup.")]
Only = Annotated[
    str,
    typer.Option("--only", help="topics (with schemas), clickhouse (all of it), or own (what no journal has)."),
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="backup", help="Backup of a world: topics, schemas, and what ClickHouse alone has.",
        epilog="Example: clearline backup create /backups/2026-11-26",
    )  # fmt: skip
    group.command("create", **example("clearline backup create /backups/2026-11-26 --clickhouse own"))(create)
    group.command("verify", **example("clearline backup verify /backups/2026-11-26"))(verify)
    group.command("restore", **example("clearline backup restore /backups/2026-11-26 --dry-run"))(restore)


def create(
    folder: Folder,
    clickhouse: Annotated[
        Literal["whole", "own", "none"],
        typer.Option(help="Of ClickHouse: everything, what no journal can bring back, or nothing."),
    ] = "own",
    disk: Annotated[
        str, typer.Option(help="Disk of the ClickHouse servers for their part, as in deploy/clickhouse/backups.xml.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be copied and write nothing.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Copy a world while it runs. The folder must be empty or not there; each backup is whole.

    Prints the SHA-256 of the manifest, which covers every file: keep it where the backup is not.
    """
    from clearline.backup import work

    settings = live_settings()
    if dry_run:
        from clearline.connection import kafka_config
        from streams.archive.take import order
        from streams.reader import spans
        from streams.topics import Topics

        kafka, topics = kafka_config(settings), Topics(settings.world)
        sizes = {n: sum(high - low for low, high in spans(kafka, n).values()) for n in order(topics)}
        lines = [f"copy at most {size:,} records of {name}" for name, size in sizes.items()]
        screen.answer({"dry_run": True, "offsets": sizes, "clickhouse": clickhouse}, as_json, lines)
        return
    with screen.bar("records", None, quiet=as_json) as bar:
        manifest, digest = work.create(settings, folder, extent=clickhouse, disk=disk, progress=bar.to)
    told = {"folder": str(folder), "sha256": digest, **manifest.to_dict()}
    screen.answer(
        told,
        as_json,
        [
            f"{manifest.records:,} records of {len(manifest.files)} partitions in {manifest.seconds:.1f} s, "
            f"{manifest.bytes / 1e6:,.1f} MB before compression",
            *(f"partition {p}: up to sequence {c.sequence}, offset {c.next_offset}" for p, c in manifest.cuts.items()),
            f"sha256 of {folder}/manifest.json: {digest}",
        ],
    )


def verify(
    folder: Folder,
    sha256: Annotated[str, typer.Option(help="What `create` said: the manifest must be that one.")] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """Read a backup again and compare every file with its hash. Exit code 1 when it is not as it was written."""
    from clearline.backup import manifest as m

    found, digest = m.read_manifest(folder)
    error = "" if sha256 in ("", digest) else f"the manifest has SHA-256 {digest}, not {sha256}"
    records = 0
    try:
        records = m.verify(folder, found)
    except BadInputError as e:
        error = error or str(e)
    document = {"folder": str(folder), "ok": not error, "error": error, "records": records, "sha256": digest}
    screen.answer(document, as_json, [error or f"{records:,} records are as they were written (manifest {digest})"])
    if error:
        raise typer.Exit(1)


def restore(
    folder: Folder,
    only: Only = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written and change nothing.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Restore a backup where the world is not: topics at their offsets, schemas with their ids, ClickHouse's own rows.

    Stop the roles before. Start them after: they go on from there. Then run `clearline verify`.
    """
    from clearline.backup import work
    from clearline.backup.manifest import read_manifest

    settings = live_settings()
    if dry_run:
        lines = work.plan_of(settings, folder, only)
        screen.answer({"dry_run": True, "steps": lines}, as_json, lines)
        return
    total = read_manifest(folder)[0].records if only in ("", "topics") else None
    with screen.bar("records", total, quiet=as_json) as bar:
        done = work.restore(settings, folder, only, progress=bar.to)
    found = ", ".join(done.clickhouse) or "nothing"
    text = f"{done.records:,} records, {done.schemas_new} schemas, of ClickHouse {found}"
    screen.answer(
        {
            "records": done.records, "schemas_new": done.schemas_new, "clickhouse": done.clickhouse,
            "seconds": round(done.seconds, 3),
        },
        as_json,
        [f"restored in {done.seconds:.1f} s: {text}"],
    )  # fmt: skip
