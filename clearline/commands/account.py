"""`clearline account`: accounts, their blocks and limits, as the ledger's own state has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live
from clearline.commands.give import ByOption, DryRunOption, KeyOption, NoteOption, WhyOption, give_document
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from schemas.records import AccountState

Account = Annotated[str, typer.Argument(help="The account's id, such as acme:wallet:alice.")]
_ROWS_MAX = 200


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="account", help="List, show, open, block, freeze, limit and close accounts.",
        epilog="Example: clearline account list --below acme",
    )  # fmt: skip
    group.command("list", **example("clearline account list --below acme/shop-17"))(list_)
    group.command("show", **example("clearline account show acme:wallet:alice"))(show)
    group.command("open", **example("clearline account open acme:wallet:alice --currency CNY"))(open_)
    group.command("block", **example('clearline account block acme:wallet:alice --debits --note "court order 12"'))(
        block
    )
    group.command("unblock", **example("clearline account unblock acme:wallet:alice"))(unblock)
    group.command("freeze", **example('clearline account freeze acme:wallet:alice --note "court order 12"'))(freeze)
    group.command("unfreeze", **example('clearline account unfreeze acme:wallet:alice --note "order lifted"'))(unfreeze)
    group.command(
        "limit", context_settings={"ignore_unknown_options": True},
        **example("clearline account limit acme:wallet:alice -50000"),
    )(limit)  # fmt: skip
    group.command("close", **example("clearline account close acme:wallet:alice"))(close)


def list_(
    below: Annotated[str, typer.Option(help="Only accounts of this partner and its tree.")] = "",
    rows_max: Annotated[int, typer.Option(min=1, help="Most rows to show; JSON has all of them.")] = _ROWS_MAX,
    as_json: screen.JsonFlag = False,
) -> None:
    """Accounts with what is available on each. The bank's own accounts are summed over all partitions."""
    from clearline import directory
    from ledger.money import format_minor

    found = directory.read_directory(live(), below)
    rows = [describe(found.accounts[a]) for a in directory.below(below, found.accounts)]
    shown = [
        (r["account_id"], r["type"], r["currency"], format_minor(r["available"], r["currency"]), _flags(r))
        for r in rows[:rows_max]
    ]
    parts: list[Any] = [
        screen.table("", ("account", "type", "currency", "available", ""), shown, right=["available"])
        if rows
        else "no account is open yet"
    ]
    if len(rows) > rows_max:
        parts.append(f"... and {len(rows) - rows_max:,} more; --rows-max shows more, --below fewer")
    screen.answer({"accounts": rows}, as_json, parts)


def show(account: Account, as_json: screen.JsonFlag = False) -> None:
    """One account: type, limit, blocks, and its four counters in minor units."""
    from clearline import directory

    found = directory.read_directory(live(), account)
    if account not in found.accounts:
        raise BadInputError(f"there is no account {account}; see `clearline account list`")
    document = describe(found.accounts[account])
    screen.answer(document, as_json, [f"{k.replace('_', ' ')}: {'' if v is None else v}" for k, v in document.items()])


def describe(shards: list[AccountState]) -> dict[str, Any]:
    """An account as plain values, its shards summed. Amounts in minor units."""
    a = shards[0]
    sums = {
        n: sum(getattr(s, n) for s in shards)
        for n in ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
    }
    debit_normal = a.type in ("asset", "expense")
    posted = sums["debits_posted"] - sums["credits_posted"]
    held = sums["credits_pending"] if debit_normal else sums["debits_pending"]
    return {
        "account_id": a.account_id,
        "type": a.type,
        "currency": a.currency,
        "available": (posted if debit_normal else -posted) - held,
        "min_available": a.min_available,
        "credit_limit": a.credit_limit,
        "frozen": a.frozen,
        "debits_blocked": a.debits_blocked,
        "credits_blocked": a.credits_blocked,
        "closed": a.closed,
        **sums,
        "shards": len(shards),
    }


def _flags(row: dict[str, Any]) -> str:
    names = {
        "closed": "closed",
        "frozen": "frozen",
        "debits_blocked": "debits blocked",
        "credits_blocked": "credits blocked",
    }
    return ", ".join(text for flag, text in names.items() if row[flag])


def open_(
    account: Account,
    currency: Annotated[str, typer.Option(help="ISO 4217 code; an account has one currency for life.")],
    type_: Annotated[str, typer.Option("--type", help="asset, liability, equity, income or expense.")] = "liability",
    min_available: Annotated[
        int, typer.Option(help="Lowest balance a debit may leave, minor units; 0 forbids overdraft.")
    ] = 0,
    credit_limit: Annotated[int, typer.Option(min=0, help="How far below that it may go, minor units.")] = 0,
    no_limit: Annotated[bool, typer.Option("--no-limit", help="Any debit may pass, as for clearing accounts.")] = False,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Open an account. An account of the bank (bank:...) is opened in every partition."""
    values = {
        "command": "OpenAccount", "account_id": account, "currency": currency, "type": type_,
        "min_available": None if no_limit else min_available, "credit_limit": credit_limit,
    }  # fmt: skip
    give_document(values, by, note, key, as_json, f"{account} is open", dry_run=dry_run)


def block(
    account: Account,
    debits: Annotated[bool, typer.Option("--debits", help="Refuse debits.")] = False,
    credits_: Annotated[bool, typer.Option("--credits", help="Refuse credits.")] = False,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Block an account: debits, credits, or both when neither is named. What is not named is let through."""
    both = not (debits or credits_)
    values = {
        "command": "BlockAccount", "account_id": account,
        "block_debits": debits or both, "block_credits": credits_ or both,
    }  # fmt: skip
    what = " and ".join([w for w, on in (("debits", debits or both), ("credits", credits_ or both)) if on])
    give_document(values, by, note, key, as_json, f"{what} of {account} are blocked", dry_run=dry_run)


def unblock(
    account: Account,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Lift all blocks of an account."""
    values = {"command": "BlockAccount", "account_id": account, "block_debits": False, "block_credits": False}
    give_document(values, by, note, key, as_json, f"{account} is not blocked", dry_run=dry_run)


def freeze(
    account: Account,
    note: WhyOption,
    by: ByOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Freeze an account: nothing is posted to it any more but the bank's adjustments; its holds can be voided."""
    values = {"command": "BlockAccount", "account_id": account, "block_debits": True, "block_credits": True}
    give_document({**values, "freeze": True}, by, note, key, as_json, f"{account} is frozen", dry_run=dry_run)


def unfreeze(
    account: Account,
    note: WhyOption,
    by: ByOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Lift the freeze of an account, and its blocks."""
    values = {"command": "BlockAccount", "account_id": account, "block_debits": False, "block_credits": False}
    give_document(values, by, note, key, as_json, f"{account} is not frozen and not blocked", dry_run=dry_run)


def limit(
    account: Account,
    min_available: Annotated[str, typer.Argument(help="Minor units, negative for an overdraft, or none.")],
    credit_limit: Annotated[int, typer.Option(min=0, help="How far below that it may go, minor units.")] = 0,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Set the lowest balance that a debit may leave; `none` lifts the limit."""
    if min_available != "none" and not min_available.removeprefix("-").isdecimal():
        raise BadInputError(f"the limit must be a whole number of minor units, or none; {min_available!r} is neither")
    value = None if min_available == "none" else int(min_available)
    values = {"command": "SetAccountLimit", "account_id": account, "min_available": value, "credit_limit": credit_limit}
    give_document(values, by, note, key, as_json, f"the limit of {account} is {min_available}", dry_run=dry_run)


def close(
    account: Account,
    by: ByOption = "",
    note: NoteOption = "",
    key: KeyOption = "",
    dry_run: DryRunOption = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Close an account for good; its balance must be zero."""
    give_document(
        {"command": "CloseAccount", "account_id": account},
        by,
        note,
        key,
        as_json,
        f"{account} is closed",
        dry_run=dry_run,
    )
