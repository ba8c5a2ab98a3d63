"""`clearline bench`: the benchmarks of a checkout, each a program of its own in `benchmarks/`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from clearline import screen
from clearline.commands.common import example
from schemas.errors import BadInputError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
_HELPERS = {"common", "load", "machine"}


def register(app: typer.Typer) -> None:
    app.command(
        "bench",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        **example("clearline bench settle"),
    )(bench)


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which one; without a name, the list.")] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """Run a benchmark; what follows its name goes to it. Results are kept as JSON lines in benchmarks/results."""
    names = benchmarks()
    if not name:
        screen.answer({"benchmarks": names}, as_json, [f"{n}: {text}" for n, text in names.items()])
        return
    if name not in names:
        raise BadInputError(
            f"there is no benchmark {name}; there are {', '.join(names) or 'none in this installation'}"
        )
    command = [sys.executable, "-m", f"benchmarks.{name}", *context.args, *(["--json"] if as_json else [])]
    done = subprocess.run(command, cwd=FOLDER.parent, check=False, stdout=subprocess.PIPE if as_json else None)
    if as_json:
        results = [orjson.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
        screen.print_json({"benchmark": name, "exit_code": done.returncode, "results": results})
    if done.returncode:
        raise typer.Exit(done.returncode if done.returncode in (1, 2, 3) else 3)


def benchmarks() -> dict[str, str]:
    """Names of the benchmarks and the first line of what each says of itself. Only those that can be run."""
    out = {}
    for path in sorted(FOLDER.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        if "__main__" in text and path.stem not in _HELPERS:
            out[path.stem] = text.lstrip().removeprefix('"""').split("\n")[0].strip().strip('"')
    return out
