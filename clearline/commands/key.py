"""`clearline key`: partners' credentials, made and ended by the bank's own staff."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live_settings
from clearline.commands.give import ByOption, NoteOption, asked_by
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.keys import Made
    from schemas.records import AccessKey
    from streams.table import Table

KeyId = Annotated[str, typer.Argument(help="The key's id: the middle part of its token.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show everything, and change nothing.")]
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="key", help="Make, list, rotate and revoke the keys of partners.",
        epilog="Example: clearline key create acme --scope read",
    )  # fmt: skip
    group.command("create", **example("clearline key create acme --scope read --scope 'transact:wallet:*'"))(create)
    group.command("list", **example("clearline key list --below acme"))(list_)
    group.command("rotate", **example("clearline key rotate 4kq7x0m2c9vbt1sd --overlap-hours 24"))(rotate)
    group.command("revoke", **example('clearline key revoke 4kq7x0m2c9vbt1sd --note "lost laptop"'))(revoke)


def create(
    partner: Annotated[str, typer.Argument(help="The partner's path, such as acme or acme/shop-17, or bank.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="read, accounts, limits, webhooks, keys, reports, data, transact:PRODUCT:OPERATION with * for "
            "either, or all; read and transact:*:* unless given. A key of bank has some of reports, status, operate."
        ),
    ] = None,
    holder: Annotated[
        str, typer.Option(help="Of a key of bank: the person whose it is; who changes things must have one.")
    ] = "",
    public_key: Annotated[str, typer.Option(help="Ed25519: a PEM file, or 32 bytes in base64 or hexadecimal.")] = "",
    signature: Annotated[
        str, typer.Option(help="optional, or required: then only signed requests are taken.")
    ] = "optional",
    thumbprint: Annotated[str, typer.Option(help="SHA-256 of the client certificate, which is then required.")] = "",
    expires_days: Annotated[int, typer.Option(min=0, help="Days until it ends; 0 never.")] = 0,
    by: ByOption = "",
    note: NoteOption = "",
    dry_run: DryRun = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Make a key for a partner. Its token is shown once and kept nowhere."""
    from clearline import keys

    settings, now = live_settings(), _now_ms()
    _check_partner(settings, partner)
    made = keys.make(
        partner, _scopes(scope), sandbox=settings.sandbox, now_ms=now, requested_by=_staff(by),
        public_key=_public_key(public_key), signature=signature, thumbprint=thumbprint.replace(":", "").lower(),
        expires_at=now + expires_days * DAY_MS if expires_days else 0, note=note,
        holder=holder,
    )  # fmt: skip
    if not dry_run:
        with _table(settings) as table:
            table.put(keys.row_key(made.key.key_id), made.key)
    _show_made(made, dry_run, as_json, [f"{partner} has key {made.key.key_id}: {made.key.scopes}"])


def list_(
    below: Annotated[str, typer.Option(help="Only this partner and its tree.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Those that are revoked or expired as well.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Keys, without anything secret."""
    from clearline import keys
    from ledger.names import within

    now = _now_ms()
    with _table(live_settings()) as table:
        rows = [k for k in _keys(table) if not below or within(k.partner_id, below)]
    found = [keys.document(k, now) for k in rows if every or keys.taken(k, now)]
    found.sort(key=lambda k: (str(k["partner_id"]), str(k["key_id"])))
    lines = [
        (
            *(k["partner_id"], k["key_id"], k["state"], _time(k["expires_at"]), k["signature"]),
            *("yes" if k["thumbprint"] else "", " ".join(k["scopes"]), k["requested_by"], k["note"]),
        )
        for k in found
    ]
    columns = ("partner", "key", "state", "ends", "signature", "certificate", "scopes", "made by", "note")
    screen.answer({"keys": found}, as_json, [screen.table("", columns, lines) if found else "there are no keys"])


def rotate(
    key_id: KeyId,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=2160, help="For how long the old one is still taken.")
    ] = 24.0,
    by: ByOption = "",
    note: NoteOption = "",
    dry_run: DryRun = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Make a key that may do what another may, and let that one end after an overlap."""
    from clearline import keys

    settings, now = live_settings(), _now_ms()
    with _table(settings) as table:
        made, old = keys.rotate(
            _key(table, key_id), sandbox=settings.sandbox, now_ms=now, overlap_ms=round(overlap_hours * HOUR_MS),
            requested_by=_staff(by), note=note,
        )  # fmt: skip
        if not dry_run:
            table.put(keys.row_key(made.key.key_id), made.key)
            table.put(keys.row_key(old.key_id), old)
    text = f"{old.partner_id} has key {made.key.key_id} beside {key_id}, which is taken until {_time(old.expires_at)}"
    _show_made(made, dry_run, as_json, [text], replaced=keys.document(old, now))


def revoke(
    key_id: KeyId,
    note: NoteOption = "",
    by: ByOption = "",
    dry_run: DryRun = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """End a key at once, in every gateway. One that was revoked before stays so."""
    import msgspec

    from clearline import keys

    with _table(live_settings()) as table:
        before = _key(table, key_id)
        after = keys.revoke(before, _now_ms())
        if after != before:
            why = "; ".join(text for text in (before.note, f"revoked by {_staff(by)}", note) if text)
            after = msgspec.structs.replace(after, note=why[-keys.NOTE_MAX :])
            if not dry_run:
                table.put(keys.row_key(key_id), after)
    done = "was revoked before" if after == before else "would be revoked" if dry_run else "is revoked"
    document = {"key": keys.document(after, _now_ms()), "dry_run": dry_run, "changed": after != before}
    screen.answer(document, as_json, [f"key {key_id} of {after.partner_id} {done}"])


def _show_made(made: Made, dry_run: bool, as_json: bool, lines: list[str], **more: Any) -> None:
    from clearline import keys

    shown = None if dry_run else made.token
    document = {"key": keys.document(made.key, _now_ms()), "token": shown, "dry_run": dry_run, **more}
    told = ["nothing was changed"] if dry_run else ["its token, shown only now:", made.token]
    screen.answer(document, as_json, [*lines, *told])


@contextmanager
def _table(settings: Settings) -> Iterator[Table]:
    """The table of who may come in, with all its rows."""
    from clearline.connection import connect
    from streams.table import Table

    system = connect(settings)
    with Table(system.kafka, system.topics.access, system.codec) as table:
        yield table


def _keys(table: Table) -> list[AccessKey]:
    from clearline import keys
    from schemas.records import AccessKey

    return [row for _, row in table.items(keys.ROW_PREFIX) if isinstance(row, AccessKey)]


def _key(table: Table, key_id: str) -> AccessKey:
    found = next((k for k in _keys(table) if k.key_id == key_id), None)
    if found is None:
        raise BadInputError(f"there is no key {key_id}; see `clearline key list --all`")
    return found


def _check_partner(settings: Settings, partner: str) -> None:
    """Raises BadInputError for a partner that was not admitted: a typing error would make a key of nobody."""
    from clearline.connection import connect
    from clearline.directory import read_directory
    from ledger.names import PARTNER_ID
    from schemas.identity import BANK

    if not PARTNER_ID.fullmatch(partner):
        raise BadInputError(f"{partner!r} is no partner's path, such as acme or acme/shop-17")
    if partner == BANK:
        return  # clearline.keys says what a key of the bank may have
    if partner not in read_directory(connect(settings), partner).partners:
        raise BadInputError(f"there is no partner {partner}; see `clearline partner list`")


def _scopes(given: list[str] | None) -> list[str]:
    from clearline.keys import ALL_SCOPES

    if not given:
        return ["read", "transact:*:*"]
    return [one for scope in given for one in (ALL_SCOPES if scope == "all" else (scope,))]


def _public_key(given: str) -> bytes:
    from clearline.keys import read_public_key

    if not given:
        return b""
    file = Path(given)
    if len(given) < 1000 and "\n" not in given and file.is_file():
        given = file.read_text()
    return read_public_key(given)


def _staff(by: str) -> str:
    return f"bank:{asked_by(by)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _time(at_ms: object) -> str:
    from datetime import UTC, datetime

    if not isinstance(at_ms, int) or not at_ms:
        return ""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M")
