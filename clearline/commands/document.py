"""`clearline asyncapi`, `clearline openapi`: the contracts, as the code has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearline import screen
from clearline.commands.common import example
from schemas.errors import BadInputError

Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there, not to stdout.")]


def register(app: typer.Typer) -> None:
    app.command("asyncapi", **example("clearline asyncapi --out asyncapi.yaml"))(asyncapi)
    app.command("openapi", **example("clearline openapi --out openapi.json"))(openapi)


def asyncapi(out: Out = None, as_json: screen.JsonFlag = False) -> None:
    """Print the topics and their messages as AsyncAPI 3, in YAML or with --json in JSON. Nothing has to run."""
    from clearline.asyncapi import document, to_yaml

    _give(screen.to_json(document()).decode() + "\n" if as_json else to_yaml(), out)


def openapi(out: Out = None, as_json: screen.JsonFlag = False) -> None:
    """Print the gateway's HTTP API as OpenAPI 3.1, in JSON. Nothing has to run."""
    _give(openapi_text(), out)


def openapi_text() -> str:
    """The document as it is committed."""
    from clearline.gateway.openapi.document import document

    return screen.to_json(document()).decode() + "\n"


def _give(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as e:
        raise BadInputError(f"{out} cannot be written: {e.strerror}") from None
    screen.say(f"{out}: {len(text.splitlines()):,} lines")
