"""The shelf: which versions of which products are published, and what one of their operations asks of a transaction."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from typing import Any, NamedTuple

from clearline.audit.closes import iso
from clearline.audit.contract import Terms
from clearline.audit.documents import fault, limits_of, roles_of
from clearline.audit.figures import LAST_DAY, Leg
from clearline.audit.limits import Limits
from clearline.audit.memory import Hold
from schemas.identity import BANK, root_of
from schemas.records import Limit, PublishProduct, Transaction

PRODUCT_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
VERSION_MAX, DOCUMENT_CHARS_MAX = 2**31 - 1, 100_000
NUMBER = re.compile(r"[1-9][0-9]{0,2}")
DEPTH_MAX = 32  # objects and lists in one another
STRING, BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL), re.compile(r"[][{}]")
ROLES = {
    "transfer": ("payer", "payee"), "hold": ("payer", "payee"), "exchange": ("payer", "payee", "sold", "bought")
}  # fmt: skip
BUILT_IN: dict[str, dict[str, Any]] = {
    kind: {r: {"owner": "bank"} if r in ("sold", "bought") else {} for r in roles} for kind, roles in ROLES.items()
}
OPERATIONS = {"transfer", "hold", "exchange", "capture", "void", "refund", "reversal"}


class Version(NamedTuple):
    """One version of a product. `text`: the document as it was given; `limits`: those that it sets."""

    version: int
    effective_from: int
    text: str
    document: dict[str, Any]
    limits: tuple[Limit, ...]
    offset: int


@dataclass(slots=True)
class Plan:
    """What a transaction is about to do, as far as it is known. Amounts in minor units.

    `kind`: of the operation; `owners`: for each leg the owner that a product's role says, or empty; `opens`: accounts
    that may be opened on first use, and how; `asked`: account, side and owner's rule of what has its balance asked;
    `late`: why the steps cannot be posted; `same`: payer and payee, or both sides of a step, are one account;
    `release`: what is given up of a hold.
    """

    kind: str
    version: Version | None = None
    operation: dict[str, Any] = field(default_factory=dict)
    legs: list[Leg] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    opens: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    late: str = ""
    same: bool = False
    hold: Hold | None = None
    release: int = 0
    original_offset: int = -1

    @property
    def number(self) -> int:
        """The version that it settles under, 0 for built-in operations."""
        return self.version.version if self.version else 0

    @property
    def roles(self) -> dict[str, Any]:
        """The product's roles by name; for built-in operations those of operations.md."""
        if self.version is not None:
            return self.version.document.get("roles", {})  # type: ignore[no-any-return]
        return BUILT_IN.get(self.kind, {})

    def role_names(self) -> set[str]:
        """The roles that take part."""
        if self.version is not None:
            return roles_of(self.operation)
        return set(ROLES.get(self.kind, ()))

    def has_steps(self) -> bool:
        """Whether a product's steps say what is posted."""
        return self.version is not None and self.kind == "transfer"


def split_role(name: str) -> tuple[str, int]:
    """`payees.2` -> payees, 2; any other name -> itself, 0; a number out of form is -1."""
    role, dot, number = name.partition(".")
    if not dot:
        return role, 0
    return role, int(number) if NUMBER.fullmatch(number) else -1


class Shelf(Limits):
    """The products of one partition."""

    def __init__(self, terms: Terms, partition: int = 0) -> None:
        super().__init__(terms, partition)
        self.shelf: dict[str, list[Version]] = {}  # by product, versions rising

    def publish(self, offset: int, c: PublishProduct) -> str:
        """The reason why a version is not published, or empty."""
        if c.partner_id != BANK:
            return "not_permitted"
        document = _object(c.document) if len(c.document) <= DOCUMENT_CHARS_MAX else None
        right = (
            bool(PRODUCT_NAME.fullmatch(c.product))
            and 1 <= c.version <= VERSION_MAX
            and 0 <= c.effective_from <= LAST_DAY
            and document is not None
            and document.get("product") == c.product
            and document.get("version") == c.version
        )
        if document is None or not right:
            return "field_invalid"
        if any(v.version >= c.version for v in self.shelf.get(c.product, [])):
            return "product_version"
        why = fault(document)
        if not why:
            self.put_version(offset, c.product, c.version, c.effective_from, c.document)
        return why

    def put_version(self, offset: int, product: str, version: int, effective_from: int, text: str) -> None:
        """Puts a version on the shelf. The document is one that was found right."""
        document = json.loads(text)
        self.shelf.setdefault(product, []).append(
            Version(version, effective_from, text, document, limits_of(document), offset)
        )

    @staticmethod
    def changes_of(c: PublishProduct) -> dict[str, str]:
        """What the journal says of a version that was published."""
        return {
            "version": str(c.version), "effective_from": iso(c.effective_from) if c.effective_from else "",
            "digest": sha256(c.document.encode()).hexdigest(), "requested_by": c.requested_by, "note": c.note,
        }  # fmt: skip

    def plan(self, t: Transaction, today: int) -> tuple[str, Plan]:
        """What is asked for: why it is not to be had, or empty; and the operation. `today`: that of the settlement."""
        if t.operation == "adjustment":
            return "", Plan("adjustment")
        if not self.shelf:
            return "" if t.operation in OPERATIONS else "operation_unknown", Plan(t.operation)
        day = max(0, today, t.value_date)  # a date of yesterday does not bring yesterday's prices
        fitting = [v for v in self.shelf.get(t.product, []) if v.effective_from <= day]
        if not fitting:
            return "product_unknown", Plan(t.operation)
        version = fitting[-1]
        op = version.document["operations"].get(t.operation)
        if op is None:
            return "operation_unknown", Plan(t.operation)
        return "", Plan(op["kind"], version, op)

    @staticmethod
    def misnamed(t: Transaction, plan: Plan) -> str:
        """Rules about the roles that a transaction names."""
        roles = plan.roles
        open_roles = {r for r in plan.role_names() if "account" not in roles[r]}
        missing = set(open_roles)
        for name in t.accounts:
            role, number = split_role(name)
            if role not in open_roles or number < 0 or bool(number) != bool(roles[role].get("many", False)):
                return "role_unknown"
            missing.discard(role)
        return "role_missing" if missing else ""

    def accounts_of(self, t: Transaction, plan: Plan, role: str) -> list[tuple[str, str]]:
        """The accounts of a role in their order, each with the name under which the transaction gives it."""
        rule = plan.roles[role]
        fixed = rule.get("account")
        if fixed is not None:
            currency = t.currency
            if plan.kind == "exchange" and role == "bought":
                currency = self.currency.get(self.accounts_of(t, plan, "payee")[0][1], t.currency)
            values = {"{currency}": currency, "{caller}": t.partner_id, "{root}": root_of(t.partner_id)}
            for word, value in values.items():
                fixed = fixed.replace(word, value)
            return [(role, fixed)]
        mine = [(split_role(name)[1], name) for name in t.accounts if split_role(name)[0] == role]
        return [(name, t.accounts[name]) for _, name in sorted(mine)]


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object, or None when the text is none by RFC 8259, or goes too deep."""
    deep = 0
    for bracket in BRACKET.findall(STRING.sub("", text)):
        deep += 1 if bracket in "[{" else -1
        if deep > DEPTH_MAX:
            return None
    try:
        found = json.loads(text, parse_constant=_in_range, parse_float=_in_range, parse_int=_in_range)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair has no bytes
    except (ValueError, OverflowError):
        return None
    return found if isinstance(found, dict) else None


def _in_range(text: str) -> float | int:
    """The number; ValueError or OverflowError when no double is near it, or when it is none at all."""
    if not isfinite(float(text)):
        raise ValueError(text)
    return int(text) if text.lstrip("-").isdigit() else float(text)
