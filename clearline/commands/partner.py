"""`clearline partner`: who may call, and in which state."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live, money
from clearline.commands.give import ByOption, DryRunOption, KeyOption, NoteOption, WhyOption, give_document
from schemas.errors import BadInputError

Partner = Annotated[str, typer.Argument(help="The partner's path, such as acme or acme/shop-17.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="partner", help="List, show and admit partners, and take them through their life.",
        epilog="Example: clearline partner list",
    )  # fmt: skip
    group.command("list", **example("clearline partner list --below acme"))(list_)
    group.command("show", **example("clearline partner show acme/shop-17"))(show)
    group.command("admit", **example('clearline partner admit acme/shop-17 --name "Shop 17"'))(admit)
    group.command("suspend", **example('clearline partner suspend acme --note "inspection"'))(suspend)
    group.command("resume", **example('clearline partner resume acme --note "inspection passed"'))(resume)
    group.command("state", **example('clearline partner state acme exiting --note "contract ended"'))(state)


def list_(
    below: Annotated[str, typer.Option(help="Only this partner and its tree.")] = "", as_json: screen.JsonFlag = False
) -> None:
    """All partners, with their state."""
    from clearline import directory

    found = directory.read_directory(live(), below)
    partners = [found.partners[p] for p in directory.below(below, found.partners)]
    rows = [{"partner_id": p.partner_id, "name": p.name, "state": p.state} for p in partners]
    shown = screen.table("", ("partner", "name", "state"), [tuple(r.values()) for r in rows])
    screen.answer({"partners": rows}, as_json, [shown if rows else "no partner is admitted yet"])


def show(partner: Partner, as_json: screen.JsonFlag = False) -> None:
    """One partner, all below it, and what the accounts of each tree have together."""
    from clearline import directory
    from ledger.accounts import Account
    from ledger.rollups import rollups

    found = directory.read_directory(live(), partner)
    p = found.partners.get(partner)
    if p is None:
        raise BadInputError(f"there is no partner {partner}; see `clearline partner list`")
    tree = directory.below(partner, found.partners)
    accounts = directory.below(partner, found.accounts)
    suspended = [a for a in _path(partner) if a in found.partners and found.partners[a].state != "live"]
    document: dict[str, Any] = {
        "partner_id": p.partner_id, "name": p.name, "state": p.state,
        "works": not suspended, "suspended_above": [a for a in suspended if a != partner],
        "below": [t for t in tree if t != partner], "accounts": len(accounts),
    }  # fmt: skip
    lines = [f"{k.replace('_', ' ')}: {', '.join(v) if isinstance(v, list) else v}" for k, v in document.items()]
    sums = rollups(Account.from_state(state) for a in accounts for state in found.accounts[a])
    rows = [
        (path, currency, *figures)
        for path in directory.below(partner, sums)
        for currency, figures in sorted(sums[path].items())
    ]
    names = ("debits_posted", "credits_posted", "debits_pending", "credits_pending")
    document["rollup"] = [dict(zip(("partner_id", "currency", *names), row, strict=True)) for row in rows]
    columns = [n.replace("_", " ") for n in names]
    shown = [(path, currency, *(money(n, currency) for n in figures)) for path, currency, *figures in rows]
    table = screen.table("With all below it", ("partner", "currency", *columns), shown, right=columns)
    screen.answer(document, as_json, [*lines, "", table] if rows else lines)


def _path(partner: str) -> list[str]:
    parts = partner.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def admit(
    partner: Partner,
    name: Annotated[str, typer.Option(help="Display name.")] = "",
    applied: Annotated[
        bool, typer.Option("--applied", help="It begins as an applicant; else it is live at once.")
    ] = False,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Admit a partner below its parent, live at once or as an applicant."""
    document = {
        "command": "AdmitPartner",
        "subject_id": partner,
        "name": name,
        "state": "applied" if applied else "live",
    }
    give_document(
        document, by, note, key, as_json, f"{partner} {'has applied' if applied else 'is admitted'}", dry_run=dry_run
    )


def suspend(
    partner: Partner,
    note: WhyOption,
    by: ByOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Suspend a partner with its whole tree: only voids and refunds go on, and it is only repaid."""
    _set_state(partner, "suspended", by, note, key, as_json, dry_run)


def resume(
    partner: Partner,
    note: WhyOption,
    by: ByOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Let a suspended partner go on."""
    _set_state(partner, "live", by, note, key, as_json, dry_run)


def state(
    partner: Partner,
    to: Annotated[str, typer.Argument(help="inspected, sandbox, live, suspended, exiting or exited.")],
    note: WhyOption,
    by: ByOption = "",
    approved_by: Annotated[
        str, typer.Option(help="The second person; needed from sandbox to live (`clearline onboard approve`).")
    ] = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Take a partner to the next state of its life; docs/operations.md has the table of what may follow what."""
    _set_state(partner, to, by, note, key, as_json, dry_run, approved_by)


def _set_state(
    partner: str, to: str, by: str, note: str, key: str, as_json: bool, dry_run: bool, approved_by: str = ""
) -> None:
    document = {"command": "SetPartnerState", "subject_id": partner, "state": to, "approved_by": approved_by}
    give_document(document, by, note, key, as_json, f"{partner} is {to}, and with it what is below", dry_run=dry_run)
