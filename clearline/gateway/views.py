"""What is answered about accounts, partners, products and limits: the documents of docs/gateway.md as models.

The OpenAPI is made of these. Amounts are integers in minor units; a statement's are on the account's normal side.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from clearline.fields import EPOCH
from clearline.gateway.documents import iso_day, iso_time
from clearline.gateway.parts import Place
from clearline.gateway.principal import Principal
from clearline.gateway.reads import BalanceRow, LimitRow, StatementPage
from ledger.products import compiled
from schemas.identity import owner_of
from schemas.records import PartnerState, ProductState
from sinks.pages import AccountRow, StatementLine


class View(BaseModel):
    """Closed: nothing is answered that is not written down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def response(self) -> Response:
        """The document as an answer."""
        return Response(self.model_dump_json(), 200, media_type="application/json")


class AsOf(View):
    """Every command of the partition up to `offset` is in what is shown."""

    partition: int
    offset: int


class AccountLinks(View):
    self: str
    balance: str
    statement: str


class Account(View):
    """An account. `opened_at` is null for the moment in which it is not known yet."""

    account_id: str
    partner_id: str
    type: Literal["asset", "liability", "equity", "income", "expense"]
    currency: str
    min_available: int | None
    credit_limit: int
    debits_blocked: bool
    credits_blocked: bool
    frozen: bool
    closed: bool
    opened_at: str | None
    links: AccountLinks


class Accounts(View):
    items: list[Account]
    next_cursor: str | None


class Balance(View):
    """The four counters. Pending ones and `available` are null when `source` is `clickhouse`, which knows what is
    posted and not what is pending."""

    account_id: str
    currency: str
    debits_pending: int | None
    debits_posted: int
    credits_pending: int | None
    credits_posted: int
    available: int | None
    min_available: int | None
    credit_limit: int
    as_of: list[AsOf]
    source: Literal["redis", "state", "clickhouse"]


class LinePosition(View):
    """Where the log has the command that booked it, and where in the journal and its entry it stands."""

    partition: int
    offset: int
    sequence: int
    line: int


class Line(View):
    """One posting. `transaction_id` is null when the transaction is not the reader's; `balance` is after it."""

    value_date: date
    booked_at: str
    transaction_id: str | None
    partner_id: str
    product: str
    operation: str
    reference: str
    side: Literal["debit", "credit"]
    amount: int
    balance: int
    position: LinePosition


class Statement(View):
    """An account over a period; the four sums are of the whole period, also on a page of it."""

    account_id: str
    type: str
    currency: str
    since: date
    until: date
    on: Literal["value", "booking"]
    opening: int
    debits: int
    credits: int
    closing: int
    lines: list[Line]
    next_cursor: str | None
    as_of: list[AsOf]


class Partner(View):
    partner_id: str
    name: str
    state: Literal["applied", "inspected", "sandbox", "live", "suspended", "exiting", "exited"]


class Partners(View):
    items: list[Partner]
    next_cursor: str | None


class ProductOperation(View):
    """`callers`: who may ask for it, the bank or a partner; `roles`: those that a transaction names."""

    name: str
    kind: str
    callers: list[str]
    roles: list[str]


class ProductVersion(View):
    """`effective_from`: the first value date that it settles, null for at once; `document`: docs/products.md."""

    version: int
    effective_from: date | None
    document: dict[str, Any]


class Product(View):
    """A product of the shelf. `version` is in force today, null when none is yet; title, currencies (empty: every one)
    and operations are that version's, else the first that will be."""

    product: str
    version: int | None
    title: str
    currencies: list[str]
    operations: list[ProductOperation]


class ProductWithVersions(Product):
    versions: list[ProductVersion]


class Products(View):
    items: list[Product]
    next_cursor: str | None


class LimitView(View):
    """The most that one window may take; null where it does not limit, and for every currency."""

    window: Literal["transaction", "minute", "hour", "day", "month"]
    currency: str | None
    count_max: int | None
    amount_max: int | None


class Used(View):
    """What the window that is open now has taken. `ends_at`: when the next one begins."""

    window: Literal["minute", "hour", "day", "month"]
    currency: str | None
    transactions: int
    amount: int
    ends_at: str


class SubjectLimits(View):
    """The limits of one subject. Of a product, `used` is what the root partner's whole tree has used, and is told to
    the root only."""

    level: Literal["partner", "account", "product"]
    subject: str
    limits: list[LimitView]
    used: list[Used]


class Limits(View):
    items: list[SubjectLimits]
    next_cursor: str | None


VIEWS: tuple[type[View], ...] = (
    Account, Accounts, Balance, Statement, Partner, Partners, Product, ProductWithVersions, Products, SubjectLimits,
    Limits,
)  # fmt: skip


def path_of(*parts: str) -> str:
    """A path under /v1 with each part encoded: slashes as %2F."""
    return "/v1/" + "/".join(quote(part, safe=":") for part in parts)


def account(row: AccountRow) -> Account:
    """The document of an account."""
    own = path_of("accounts", row.account_id)
    values = row._asdict()
    opened_at = values.pop("opened_at")
    return Account(
        **values, partner_id=owner_of(row.account_id), opened_at=iso_time(opened_at) if opened_at else None,
        links=AccountLinks(self=own, balance=own + "/balance", statement=own + "/statement"),
    )  # fmt: skip


def balance(row: BalanceRow) -> Balance:
    """The document of a balance."""
    a, values = row.account, row._asdict()
    del values["account"]
    return Balance(
        **{**values, "as_of": as_of(row.as_of)}, account_id=a.account_id, currency=a.currency,
        min_available=a.min_available, credit_limit=a.credit_limit,
    )  # fmt: skip


def statement(
    page: StatementPage, since: date, until: date, on: Literal["value", "booking"], cursor: str | None, who: Principal
) -> Statement:
    """The document of a statement, as one reader may see it."""
    return Statement(
        account_id=page.account_id, type=page.type, currency=page.currency, since=since, until=until, on=on,
        opening=page.opening, debits=page.debits, credits=page.credits, closing=page.closing,
        lines=[_line(x, who) for x in page.lines], next_cursor=cursor, as_of=as_of(page.as_of),
    )  # fmt: skip


def _line(x: StatementLine, who: Principal) -> Line:
    return Line(
        value_date=x.value_date, booked_at=iso_time(x.key.booked_at),
        transaction_id=x.command_id.hex() if who.sees(x.partner_id) else None, partner_id=x.partner_id,
        product=x.product, operation=x.operation, reference=x.reference, side=x.side, amount=x.amount,
        balance=x.balance,
        position=LinePosition(
            partition=x.key.partition, offset=x.offset, sequence=x.key.sequence, line=x.key.line
        ),
    )  # fmt: skip


def as_of(places: tuple[Place, ...]) -> list[AsOf]:
    """How far an answer goes."""
    return [AsOf(partition=p.partition, offset=p.offset) for p in places]


def partner(row: PartnerState) -> Partner:
    """The document of a partner."""
    return Partner.model_validate({"partner_id": row.partner_id, "name": row.name, "state": row.state})


def product(versions: list[ProductState], today: date) -> ProductWithVersions:
    """The document of a product. `versions`: all of it, rising; at least one."""
    days = (today - EPOCH).days
    in_force = [v for v in versions if v.effective_from <= days]
    shown = in_force[-1] if in_force else versions[0]
    found = compiled(shown.document)
    return ProductWithVersions(
        product=shown.product,
        version=in_force[-1].version if in_force else None,
        title=msgspec.json.decode(shown.document).get("title", ""),
        currencies=sorted(found.currencies),
        operations=[
            ProductOperation(name=o.name, kind=o.kind, callers=sorted(o.callers), roles=sorted(o.asked))
            for o in found.operations.values()
        ],
        versions=[
            ProductVersion(
                version=v.version,
                effective_from=date.fromisoformat(iso_day(v.effective_from)) if v.effective_from else None,
                document=msgspec.json.decode(v.document),
            )
            for v in versions
        ],
    )


def limits(row: LimitRow) -> SubjectLimits:
    """The document of one subject's limits."""
    return SubjectLimits(
        level=row.level,
        subject=row.subject_id,
        limits=[
            LimitView.model_validate({**msgspec.structs.asdict(x), "currency": x.currency or None}) for x in row.limits
        ],
        used=[
            Used.model_validate({**u._asdict(), "currency": u.currency or None, "ends_at": iso_time(u.ends_at)})
            for u in row.used
        ],
    )
