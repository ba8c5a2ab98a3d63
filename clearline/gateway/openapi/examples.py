"""The examples of the document: calls that were made of a gateway over the twin, and what it answered.

They are not written by hand: `python -m tests.contract.api_story` records them, and a test that runs the same story
again holds them equal, so an example cannot say what is not so.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

RECORDED_AT = "https://api.example"


class Step(NamedTuple):
    """One call. `operation`: its operationId, empty for a path that is none; `answer`: the JSON body, None for none."""

    name: str
    operation: str
    summary: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    answer: Any


@cache
def steps() -> tuple[Step, ...]:
    """All of them, in the order in which they were made."""
    text = (files("clearline.gateway.openapi") / "examples.json").read_text(encoding="utf-8")
    return tuple(Step(**s) for s in json.loads(text))
