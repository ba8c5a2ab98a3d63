"""`clearline sandbox`: lets a new partner into a sandbox world, and brings one back to its beginning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from clearline import screen
from clearline.commands.common import example, looks_only
from schemas.errors import BadInputError, PartUnavailableError

Url = Annotated[str, typer.Option(help="The gateway's address; that of the sandbox running here unless given.")]
_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="sandbox", help="Join a sandbox with accounts, money and a key; begin anew.",
        epilog='Example: clearline sandbox join "My Shop"',
    )  # fmt: skip
    group.command("join", **example('clearline sandbox join "My Shop" --save-key shop.pem'))(join)
    group.command("reset", **example("clearline sandbox reset --key test_..."))(reset)


def join(
    name: Annotated[str, typer.Argument(help="What you are called; your id is made of it.")],
    url: Url = "",
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file with your Ed25519 public key; a pair is made when it is left out.")
    ] = None,
    save_key: Annotated[
        Path | None, typer.Option(help="Write the private key that was made to this new file, for you alone.")
    ] = None,
    dry_run: Annotated[bool, looks_only("Show the call")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Join: a partner of your own with two wallets in CNY and one in USD, sandbox money and a key, in one call."""
    body: dict[str, Any] = {"name": name}
    if public_key is not None:
        body["public_key"] = _text(public_key)
    if dry_run:
        _say_call(url, "/v1/sandbox/partners", body, as_json)
        return
    document = _call(url, "/v1/sandbox/partners", body)
    private = document["private_key"]
    if save_key is not None and private:
        _save(save_key, private)
    lines = [
        f"you are {document['partner_id']}",
        *(f"  {a['account_id']}: {_money(a)}" for a in document["accounts"]),
        f"your key, shown only now: {document['token']}",
    ]
    if private:
        lines.append(f"your private key is in {save_key}" if save_key else f"your private key, only now:\n{private}")
    lines += ["try these: a payment, the balance after it, and a payment that is refused", *document["curl"]]
    screen.answer(document, as_json, lines)


def reset(
    key: Annotated[str, typer.Option(help="Your bearer key.", envvar="CLEARLINE_API_KEY")],
    url: Url = "",
    dry_run: Annotated[bool, looks_only("Show the call")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Begin anew: open holds are voided, limits lifted, balances as at first. Keys and history stay."""
    if dry_run:
        _say_call(url, "/v1/sandbox/reset", None, as_json)
        return
    document = _call(
        url, "/v1/sandbox/reset", None, {"Authorization": f"Bearer {key}", "Idempotency-Key": f"cli-{uuid4().hex}"}
    )
    done = f"{document['holds_voided']} holds voided, limits of {document['limits_lifted']} lifted"
    screen.answer(document, as_json, [done, *(f"  {a['account_id']}: {_money(a)}" for a in document["accounts"])])


def _say_call(url: str, path: str, body: object, as_json: bool) -> None:
    """What would be sent, without the key."""
    document = {"dry_run": True, "method": "POST", "url": f"{url or _own_gateway()}{path}", "body": body}
    screen.answer(document, as_json, [f"would be sent: POST {document['url']}", *([str(body)] if body else [])])


def _call(url: str, path: str, body: object, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """One POST. Raises BadInputError with what the gateway says, PartUnavailableError."""
    import httpx

    url = (url or _own_gateway()).rstrip("/")
    try:
        answer = httpx.post(f"{url}{path}", json=body, headers=headers, timeout=_TIMEOUT_S)
        document: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        raise PartUnavailableError("Gateway", url, str(e) or type(e).__name__) from None
    except ValueError:
        raise BadInputError(f"{url} answered no JSON: is it a gateway?") from None
    if answer.status_code in (502, 503, 504):
        raise PartUnavailableError("Gateway", url, str(document.get("detail", answer.status_code)))
    if answer.status_code == 404:
        raise BadInputError(f"{url} is no sandbox: its world's name does not start with sandbox")
    if not answer.is_success:
        raise BadInputError(f"{document.get('code', answer.status_code)}: {document.get('detail', '')}")
    return document


def _own_gateway() -> str:
    """The gateway of the sandbox that runs on this machine."""
    from clearline.config import load_settings
    from clearline.stack import resolved_settings

    settings = load_settings()
    if not settings.sandbox and "CLEARLINE_WORLD" not in os.environ:
        settings = load_settings(world="sandbox")
    return resolved_settings(settings).gateway.public_url or ""


def _money(account: dict[str, Any]) -> str:
    from clearline.commands.common import money

    return f"{money(account['balance'], account['currency'])} {account['currency']}"


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInputError(f"{file} cannot be read: {getattr(e, 'strerror', None) or 'no text'}") from None


def _save(file: Path, private_key: str) -> None:
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(private_key)
    except OSError as e:
        raise BadInputError(f"{file} cannot be written: {e.strerror}; your private key is:\n{private_key}") from None
