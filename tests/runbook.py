"""docs/OPERATING.md taken apart: its sections, and its command lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "OPERATING.md"
_BLOCK = re.compile(r"^```(sh(?: run)?)\n(.*?)^```$", re.M | re.S)


def sections() -> dict[str, str]:
    """The incidents' sections by anchor."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Incidents\n")[2].partition("\n## Routine\n")[0]
    parts = re.split(r"^### (.+)$", text, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks() -> Iterator[tuple[bool, str]]:
    """Every line of a block, and whether it is one that is executed."""
    for kind, body in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for line in body.splitlines():
            if line.strip():
                yield kind == "sh run", line.strip()


def inline_commands() -> Iterator[str]:
    """What stands between backticks and begins with the name of the program."""
    text = _BLOCK.sub("", PAGE.read_text(encoding="utf-8"))
    yield from re.findall(r"`((?:clearline|docker-compose) [^`]+)`", text)
