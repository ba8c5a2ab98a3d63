"""A product's YAML file: read with the line of every value, so that a broken rule is answered with FILE:LINE.

The shape is checked by pydantic, what it means by the ledger's own rules (`ledger.product_sense`), which are asked
again when the version is published. What is published is the document as canonical JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from clearline.fields import Input, shown, stop
from ledger.product_sense import check
from schemas.errors import BadInputError

BYTES_MAX = 1_000_000
_DEPTH_MAX = 32


class Problem(NamedTuple):
    """One broken rule of a file, with its line (1 is the first)."""

    line: int
    path: str
    rule: str
    reason: str = "product_invalid"


class ProductFileError(BadInputError):
    """The file is no product; `problems` has each with its line."""

    def __init__(self, file: Path, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__(
            "; ".join(f"{file}:{p.line}: {p.path + ': ' if p.path else ''}{p.rule}" for p in self.problems)
        )


@dataclass(frozen=True, slots=True)
class ProductFile:
    """A product that may be published. `text`: canonical JSON; `lines`: of each path such as `roles.payer.owner`."""

    file: Path
    document: dict[str, Any]
    text: str
    lines: Mapping[str, int]

    @property
    def product(self) -> str:
        """The product's name."""
        return str(self.document["product"])

    @property
    def version(self) -> int:
        """The version's number."""
        return int(self.document["version"])


def read_product(file: Path) -> ProductFile:
    """The product in a YAML file. Raises ProductFileError that names every broken rule, BadInputError for no file."""
    try:
        data = file.read_bytes()
    except OSError as e:
        raise BadInputError(f"{file} cannot be read: {e.strerror}") from None
    return parse_product(file, data)


def parse_product(file: Path, data: bytes) -> ProductFile:
    """The product in the bytes of a YAML file. Raises ProductFileError."""
    if len(data) > BYTES_MAX:
        raise ProductFileError(file, [Problem(1, "", f"has {len(data)} bytes, the most is {BYTES_MAX}")])
    value, lines, problems = _load(data)
    if not problems:
        problems = [Problem(_line(lines, path), path, rule, reason) for path, rule, reason in _judge(value)]
    if problems:
        raise ProductFileError(file, problems)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if len(text) > 100_000:
        raise ProductFileError(file, [Problem(1, "", f"is {len(text)} characters of JSON, the most is 100000")])
    return ProductFile(file, value, text, lines)


def _judge(value: object) -> list[tuple[str, str, str]]:
    try:
        ProductModel.model_validate(value)
    except ValidationError as e:
        return [(*_explained(error), "product_invalid") for error in e.errors(include_url=False)]
    return [(f.path, f.rule, str(f.reason)) for f in check(value)]


def _line(lines: Mapping[str, int], path: str) -> int:
    """The line of a path, or of the nearest thing around it that is there."""
    while path and path not in lines:
        cut = max(path.rfind("."), path.rfind("["))
        path = path[: max(cut, 0)]
    return lines.get(path, 1)


# ---- YAML ------------------------------------------------------------------------------------------------------------


def _load(data: bytes) -> tuple[Any, dict[str, int], list[Problem]]:
    """The values of a YAML document, the line of each, and what is wrong with it as YAML."""
    reader = _Reader()
    try:
        loader = yaml.SafeLoader(data.decode())
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}, [Problem(1, "", "is empty")]
            value = reader.value(loader, node, "", 0)
        finally:
            loader.dispose()
    except UnicodeDecodeError as e:
        return None, {}, [Problem(1 + data[: e.start].count(b"\n"), "", "is not UTF-8")]
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        return None, {}, [Problem(mark.line + 1 if mark else 1, "", f"is not YAML: {e.problem or e.context}")]
    except yaml.YAMLError as e:
        return None, {}, [Problem(1, "", f"is not YAML: {str(e).splitlines()[0]}")]
    except (ValueError, RecursionError) as e:  # a date that is none, a number of thousands of digits
        return None, {}, [Problem(1, "", f"is not YAML that we take: {str(e).splitlines()[0][:100]}")]
    return value, reader.lines, reader.problems


class _Reader:
    """Builds plain values from YAML nodes and keeps their lines; a key that stands twice is a problem."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []

    def value(self, loader: yaml.SafeLoader, node: yaml.Node, path: str, depth: int) -> Any:
        """The value of a node at this path."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if depth > _DEPTH_MAX:
            self.problems.append(Problem(line, path, "is nested too deeply"))
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.value(loader, n, f"{path}[{i}]", depth + 1) for i, n in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node)
                at = key_node.start_mark.line + 1
                if not isinstance(key, str):
                    self.problems.append(Problem(at, path, f"a name is a text, not {shown(key)}; put it in quotes"))
                    continue
                below = f"{path}.{key}" if path else key
                if key in out:
                    self.problems.append(Problem(at, below, "stands twice"))
                self.lines[below] = at
                out[key] = self.value(loader, value_node, below, depth + 1)
            return out
        return loader.construct_object(node)


# ---- shape -----------------------------------------------------------------------------------------------------------


def _amount(value: object) -> object:
    if not isinstance(value, str | dict):
        stop(f'must be a word such as amount, or an object such as {{percent: "0.6"}}, not {shown(value)}')
    if isinstance(value, dict) and isinstance(value.get("percent"), float | int):
        stop(f'a percentage is a text: write percent: "{value["percent"]}", in quotes, so that it stays exact')
    return value


Expression = Annotated[Any, BeforeValidator(_amount)]
Minor = Annotated[int, Field(strict=True)]


class _Model(Input):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False)


class OpenModel(_Model):
    """How an account is opened on first use; limits in minor units."""

    type: str
    min_available: Minor | None = None
    credit_limit: Minor = 0


class RoleModel(_Model):
    """Whose account takes a part."""

    owner: Literal["caller", "tree", "any", "bank"]
    account: str = ""
    many: bool = False
    open: OpenModel | None = None


class TargetModel(_Model):
    """Who is credited, and with how much."""

    role: str
    amount: Expression = "remaining"


class StepModel(_Model):
    """What is taken from one role and given to others."""

    source: Annotated[str, Field(alias="from")]
    amount: Expression
    to: Annotated[list[TargetModel], Field(min_length=1)]


class OperationModel(_Model):
    """One operation."""

    kind: Literal["transfer", "entry", "hold", "capture", "void", "reversal", "exchange", "refund"]
    callers: list[Literal["partner", "bank"]] | None = None
    steps: list[StepModel] = Field(default_factory=list)
    amounts: list[str] = Field(default_factory=list)
    fees: Literal["keep", "return"] = "keep"


class LimitModel(_Model):
    """The most that one window may take; amounts in minor units."""

    window: Literal["transaction", "minute", "hour", "day", "month"]
    currency: str = ""
    count_max: Minor | None = None
    amount_max: Minor | None = None


class ProductModel(_Model):
    """The document of one version of a product."""

    product: str
    version: Annotated[int, Field(strict=True, ge=1)]
    title: str = ""
    currencies: list[str] = Field(default_factory=list)
    roles: dict[str, RoleModel] = Field(default_factory=dict)
    operations: Annotated[dict[str, OperationModel], Field(min_length=1)]
    limits: list[LimitModel] = Field(default_factory=list)


def _explained(error: Any) -> tuple[str, str]:
    """pydantic's finding as a path and a rule in our words."""
    path = ""
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            rule = "is missing"
        case "extra_forbidden":
            rule = "there is no such key"
        case "literal_error":
            rule = f"must be {context['expected']}, not {shown(error['input'])}"
        case "clearline":
            rule = str(error["msg"])
        case "model_type" | "dict_type":
            rule = f"must be an object of names and values, not {shown(error['input'])}"
        case "too_short":
            rule = "must not be empty"
        case "string_type":
            rule = f"must be a text, not {shown(error['input'])}"
        case "int_type":
            rule = f"must be a whole number, not {shown(error['input'])}"
        case kind if kind.endswith("_type"):
            rule = f"{error['msg'].removeprefix('Input should be ')}, not {shown(error['input'])}"
        case _:
            rule = str(error["msg"])
    return path, rule


# ---- the shelf -------------------------------------------------------------------------------------------------------


def shelf_files() -> list[Path]:
    """The products that come with Clearline: in the installed package, or in the checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "products", here.parent / "products"):
        found = sorted(folder.glob("*.yaml"))
        if found:
            return found
    raise BadInputError("the shelf's products are not installed with this package")
