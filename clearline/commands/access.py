"""`clearline access`: who may do what on the brokers, by role, and the brokers' ACLs made to it (docs/access.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, looks_only
from clearline.commands.give import ByOption, WhyOption, asked_by

if TYPE_CHECKING:
    from clearline.config import Settings
    from streams.access import AccessPlan


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="access", help="Who may do what on the brokers: one principal per role, all else denied.",
        epilog="Example: clearline access plan",
    )  # fmt: skip
    group.command("show", **example("clearline access show --role worker"))(show)
    group.command("plan", **example("clearline access plan --json"))(plan)
    group.command("apply", **example("clearline access apply --passwords /run/secrets"))(apply)
    group.command("block", **example('clearline access block live.shop --note "incident 12"'))(block)
    group.command("unblock", **example('clearline access unblock live.shop --note "incident 12 is over"'))(unblock)


def show(
    role: Annotated[str, typer.Option(help="Only this role.")] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """Show what each role may, as the table says; asks no broker."""
    from clearline.config import load_settings
    from streams.access import ROLES, rules, user_of
    from streams.topics import Topics

    settings = load_settings()
    topics = Topics(settings.world)
    named = settings.kafka.principals
    rows: list[dict[str, Any]] = []
    lines = []
    for name in [role] if role else ROLES:
        found = rules(topics, name)
        who = named.get(name, [user_of(topics.world, name)])
        rows.append(
            {"role": name, "principals": who, "purpose": ROLES[name].purpose, "rules": [r._asdict() for r in found]}
        )
        lines.append(f"{name} ({', '.join(who)}): {ROLES[name].purpose}")
        lines += [f"  {r.operation:17}{r.resource:17}{r.name}{'*' if r.pattern == 'prefixed' else ''}" for r in found]
    screen.answer({"world": settings.world, "roles": rows}, as_json, lines)


def plan(as_json: screen.JsonFlag = False) -> None:
    """Say what `apply` would do. Exit code 1 when the brokers' ACLs are not those of the table."""
    from clearline.connection import kafka_config
    from streams import access
    from streams.topics import Topics

    settings = _settings()
    found = access.plan(kafka_config(settings), Topics(settings.world), settings.kafka.principals)
    _answer(settings, found, as_json, "would be")
    if not found.equal:
        raise typer.Exit(1)


def apply(
    passwords: Annotated[
        Path | None,
        typer.Option(help="Folder with a file kafka-ROLE for each role that logs in: the first line is its password."),
    ] = None,
    dry_run: Annotated[bool, looks_only("The same as `access plan`")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Make the users and the ACLs of this world those of the table. Again changes nothing but salts."""
    from clearline.access_users import passwords_in
    from clearline.connection import kafka_config
    from streams import access
    from streams.topics import Topics

    if dry_run:
        plan(as_json)
        return
    settings = _settings()
    users = passwords_in(settings, passwords) if passwords is not None else {}
    kafka = kafka_config(settings)
    given = access.set_users(kafka, users)
    done = access.apply(kafka, Topics(settings.world), settings.kafka.principals)
    _answer(settings, done, as_json, "was", users=given)


WhoArgument = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="As the brokers know it, such as live.shop.")]
BlockDryRun = Annotated[bool, looks_only("Say whether it would change anything")]


def block(
    who: WhoArgument, note: WhyOption, by: ByOption = "", dry_run: BlockDryRun = False, as_json: screen.JsonFlag = False
) -> None:
    """Take from a principal the right to give commands, at once and until `unblock`, whatever the table allows it.

    Recorded in the journal with who and why. Nothing that it gave before is taken back. Needs a super user of the
    brokers, as `plan` does."""
    _block(who, asked_by(by), note, lift=False, dry=dry_run, as_json=as_json)


def unblock(
    who: WhoArgument, note: WhyOption, by: ByOption = "", dry_run: BlockDryRun = False, as_json: screen.JsonFlag = False
) -> None:
    """End what `block` began: the principal may again what the table says."""
    _block(who, asked_by(by), note, lift=True, dry=dry_run, as_json=as_json)


def _block(who: str, by: str, note: str, *, lift: bool, dry: bool, as_json: bool) -> None:
    from clearline.acts import record_act
    from clearline.connection import connect, kafka_config
    from schemas.errors import PartUnavailableError
    from streams import access
    from streams.topics import Topics

    settings = _settings()
    topics = Topics(settings.world)
    changed = access.block(kafka_config(settings), topics, who, settings.kafka.principals, lift=lift, dry=dry)
    state = "not blocked" if lift else "blocked"
    document = {
        "principal": who, "blocked": not lift, "changed": changed, "dry_run": dry, "requested_by": by, "note": note,
    }  # fmt: skip
    if dry:
        screen.answer(document, as_json, [f"{who} {'would be' if changed else 'is'} {state}"])
        return
    try:
        act = f"access.{'unblock' if lift else 'block'}"
        outcome = record_act(connect(settings), act=act, subject_id=who, digest="", requested_by=by, note=note)
    except PartUnavailableError as e:
        hint = f"{e}. {who} is {state}, but who did it and why stands nowhere yet: give the same command again"
        raise PartUnavailableError("Settlement", topics.submitted, hint) from e
    where = f"recorded in partition {outcome.partition}, record {outcome.sequence}"
    screen.answer(document | {"outcome": outcome.to_dict()}, as_json, [f"{who} is {state} ({where})"])


def _settings() -> Settings:
    """With an address of Kafka in the settings nothing else need run."""
    from clearline.commands.common import live_settings
    from clearline.config import load_settings

    settings = load_settings()
    return settings if settings.kafka.bootstrap else live_settings()


def _answer(settings: Settings, p: AccessPlan, as_json: bool, tense: str, **more: list[str]) -> None:
    lines = [f"{user} has its password" for user in more.get("users", ())]
    lines += [f"{tense} added:   {g}" for g in p.missing] + [f"{tense} removed: {g}" for g in p.surplus]
    lines += [f"not ours, left alone: {g}" for g in p.foreign]
    lines += [f"blocked: {g.principal.removeprefix('User:')} may give no command (`access unblock`)" for g in p.blocked]
    document = {
        "world": settings.world, "equal": p.equal, "missing": [g.to_dict() for g in p.missing],
        "surplus": [g.to_dict() for g in p.surplus], "foreign": [g.to_dict() for g in p.foreign],
        "blocked": [g.to_dict() for g in p.blocked], **more,
    }  # fmt: skip
    screen.answer(document, as_json, lines or [f"the ACLs of {settings.world} are those of the table"])
