"""`clearline onboard`: the guided inspection for a partner's developer, and go-live for the bank's two persons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live_settings
from clearline.commands.give import asked_by
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.inspection import Step
    from schemas.records import Onboarding

Partner = Annotated[str, typer.Argument(help="The partner's path in the sandbox world.")]
SandboxWorld = Annotated[
    str, typer.Option(help="The world in which the checks were passed; this one unless its name is given.")
]
SandboxData = Annotated[
    Path | None, typer.Option(help="Data folder of that world's embedded stack, when it has another one.")
]
Note = Annotated[str, typer.Option("--note", help="Why; it is kept and must be given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show everything, and change nothing.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    app.add_typer(
        group, name="onboard", help="Run the inspection against a gateway; ask for go-live and approve it.",
        epilog="Example: clearline onboard --url http://127.0.0.1:8080 --key test_... --signing-key key.pem",
    )  # fmt: skip
    group.callback(**{k: v for k, v in example("clearline onboard --url URL --key KEY").items() if k == "epilog"})(
        inspect
    )
    group.command("show", **example("clearline onboard show acme-x7f2k1"))(show)
    group.command(
        "request", **example('clearline onboard request acme-x7f2k1 --requested-by zhou --note "contract 117"')
    )(request)
    group.command(
        "approve",
        **example('clearline onboard approve acme-x7f2k1 --live-as acme --approved-by li --note "inspected" --dry-run'),
    )(approve)


def inspect(
    context: typer.Context,
    url: Annotated[str, typer.Option(help="The gateway's address.")] = "",
    key: Annotated[str, typer.Option(help="The bearer key; CLEARLINE_API_KEY unless given.", show_default=False,
                                     envvar="CLEARLINE_API_KEY")] = "",
    signing_key: Annotated[
        Path | None, typer.Option(help="PEM file with the Ed25519 private key of that key, for the signature's check.")
    ] = None,
    webhook: Annotated[
        str, typer.Option(help="An address of your own that answers the challenge; `local` starts a receiver here.")
    ] = "local",
    payer: Annotated[str, typer.Option(help="Account to pay from; PARTNER:wallet:main unless given.")] = "",
    payee: Annotated[str, typer.Option(help="Account to pay to; PARTNER:wallet:shop unless given.")] = "",
    currency: Annotated[str, typer.Option(help="Of both accounts.")] = "CNY",
    as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """Run every check of the inspection against a gateway, and show what is missing for go-live."""
    if context.invoked_subcommand is not None:
        return
    if not url or not key:
        raise BadInputError("--url and --key are needed; see `clearline onboard --help`")
    from clearline.inspection import Inspection

    found = Inspection(
        url, key, _pem(signing_key), payer=payer, payee=payee, currency=currency, webhook=webhook,
        tell=lambda step: None if as_json else _tell(step),
    ).run()  # fmt: skip
    document = {
        "partner_id": found.partner_id, "steps": [s._asdict() for s in found.steps], "missing": found.missing,
        "onboarding": found.onboarding,
    }  # fmt: skip
    what = {c["check"]: c["do"] for c in found.onboarding.get("checks", [])}
    lines = ["", *(f"missing: {name}. {what.get(name, '')}" for name in found.missing)]
    if not found.missing:
        lines.append("nothing is missing: ask with POST /v1/onboarding/go-live, or have the bank ask for you")
    screen.answer(document, as_json, lines)
    if found.missing or any(s.passed is False for s in found.steps):
        raise typer.Exit(1)


def show(
    partner: Partner, sandbox_world: SandboxWorld = "", sandbox_data: SandboxData = None,
    as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """Which checks a partner has passed, and where its go-live stands."""
    from clearline import golive

    _answer(golive.look(_sandbox(sandbox_world, sandbox_data), partner), as_json)


def request(
    partner: Partner,
    note: Note,
    requested_by: Annotated[str, typer.Option(help="The first person; you unless given.")] = "",
    sandbox_world: SandboxWorld = "",
    sandbox_data: SandboxData = None,
    dry_run: DryRun = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Ask for a partner's go-live, once it has passed every check. Another person approves it."""
    from clearline import golive

    settings = _sandbox(sandbox_world, sandbox_data)
    row = golive.request(settings, partner, asked_by(requested_by), note, dry_run=dry_run)
    done = f"{partner}: go-live {'would be' if dry_run else 'is'} requested by {row.requested_by}"
    _answer(row, as_json, done, dry_run=dry_run)


def approve(
    partner: Partner,
    note: Note,
    approved_by: Annotated[str, typer.Option(help="The second person; you unless given.")] = "",
    live_as: Annotated[str, typer.Option(help="The partner's path in the live world; the same unless given.")] = "",
    sandbox_world: SandboxWorld = "",
    sandbox_data: SandboxData = None,
    dry_run: DryRun = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Approve a go-live that another person asked for: the partner becomes live in this world's ledger."""
    from clearline import golive

    done = golive.approve(
        _sandbox(sandbox_world, sandbox_data), live_settings(), partner, asked_by(approved_by), note,
        live_as=live_as, dry_run=dry_run,
    )  # fmt: skip
    o = done.outcome
    place = {"partition": o.partition, "offset": o.offset, "sequence": o.sequence} if o is not None else None
    where = f" (partition {o.partition}, offset {o.offset})" if o is not None else ", nothing was changed"
    text = f"{done.row.live_as} {'is' if o is not None else 'would be'} live, asked for by {done.row.requested_by}, "
    _answer(done.row, as_json, f"{text}approved by {done.row.approved_by}{where}", dry_run=dry_run, place=place)


def _answer(row: Onboarding, as_json: bool, done: str = "", **more: Any) -> None:
    from clearline.gateway import onboarding

    document = onboarding.document(row, None)
    table = screen.table("", ("check", "passed"), [(c["check"], c["passed_at"] or "-") for c in document["checks"]])
    go_live = document["go_live"]
    stands = [f"go-live: {go_live['state']}", *(f"{k}: {v}" for k, v in go_live.items() if v and k != "state")]
    screen.answer({**document, **more}, as_json, [done] if done else [table, "", *stands])


def _tell(step: Step) -> None:
    mark = {True: "passed", False: "FAILED", None: "left out"}[step.passed]
    screen.results().print(f"{step.check}: {mark}\n  sent {step.sent}\n  seen {step.seen}", markup=False)


def _pem(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInputError(f"{file} cannot be read: {getattr(e, 'strerror', None) or 'no text'}") from None


def _sandbox(world: str, data_dir: Path | None) -> Settings:
    """Settings of the world in which the checks were passed."""
    from clearline.config import load_settings
    from clearline.stack import resolved_settings

    if not world and data_dir is None:
        return live_settings()
    overrides: dict[str, Any] = {"world": world or "sandbox"}
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    return resolved_settings(load_settings(**overrides))
