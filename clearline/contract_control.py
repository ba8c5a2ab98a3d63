"""What an outsider may hand in beside transactions: partners, accounts, limits, calendars, days, products."""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from clearline.fields import (
    EPOCH,
    AccountId,
    Currency,
    Day,
    Input,
    Key,
    Limit,
    Name,
    NotNegative,
    PartnerId,
    Text,
    stop,
)
from clearline.zones import offsets_of
from schemas import records
from schemas.errors import BadInputError
from schemas.records import Command

_WEEKDAY = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: tuple[str, ...] = get_args(_WEEKDAY)
_WINDOW = Literal["transaction", "minute", "hour", "day", "month"]


class ControlInput(Input):
    partner_id: PartnerId = "bank"
    idempotency_key: Key
    requested_by: Text = ""
    note: Text = ""

    def record(self, today: date) -> Command:
        """The command; control commands have no value date, so `today` is not used."""
        values = self.model_dump()
        kind: type[Command] = getattr(records, values.pop("command"))
        return kind(**values)


class OpenAccountInput(ControlInput):
    """`min_available`: minor units; null for no limit, 0 forbids overdraft."""

    command: Literal["OpenAccount"]
    account_id: AccountId
    type: Literal["asset", "liability", "equity", "income", "expense"]
    currency: Currency
    min_available: Limit = None
    credit_limit: NotNegative = 0


class BlockAccountInput(ControlInput):
    command: Literal["BlockAccount"]
    account_id: AccountId
    block_debits: bool
    block_credits: bool
    freeze: bool = False


class SetAccountLimitInput(ControlInput):
    """`min_available` must be given, null for no limit: a limit is never lifted by leaving a field out."""

    command: Literal["SetAccountLimit"]
    account_id: AccountId
    min_available: Limit
    credit_limit: NotNegative = 0


class CloseAccountInput(ControlInput):
    command: Literal["CloseAccount"]
    account_id: AccountId


class AdmitPartnerInput(ControlInput):
    command: Literal["AdmitPartner"]
    subject_id: PartnerId
    name: Text = ""
    state: Literal["applied", "live"] = "live"


class SetPartnerStateInput(ControlInput):
    """Who is behind it and why must be given: the change is kept in the journal. From sandbox to live also who approved
    it, which is looked at by the ledger: only it knows the state that the partner has."""

    command: Literal["SetPartnerState"]
    subject_id: PartnerId
    state: Literal["inspected", "sandbox", "live", "suspended", "exiting", "exited"]
    requested_by: Annotated[Text, StringConstraints(min_length=1)]
    note: Annotated[Text, StringConstraints(min_length=1)]
    approved_by: Text = ""

    @model_validator(mode="after")
    def _four_eyes(self) -> SetPartnerStateInput:
        if self.approved_by == self.requested_by:
            stop("must be another person than requested_by", "approved_by")
        return self


_Why = Annotated[Text, StringConstraints(min_length=1, max_length=1_024)]
_Second = Annotated[Text, StringConstraints(max_length=1_024)]


class SetFreezeInput(ControlInput):
    """Freezes or lifts, docs/operations.md. To lift a partner's or the world's takes `approved_by`."""

    command: Literal["SetFreeze"]
    level: Literal["account", "partner", "product", "world"]
    subject_id: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    frozen: bool
    requested_by: _Why
    note: _Why
    approved_by: _Second = ""

    @model_validator(mode="after")
    def _is_whole(self) -> SetFreezeInput:
        if self.level == "world" and self.subject_id != "world":
            stop("must be world where the level is world", "subject_id")
        if not self.frozen and self.level in ("partner", "world") and not self.approved_by:
            stop("is missing: to lift this freeze takes a second person", "approved_by")
        if self.approved_by == self.requested_by:
            stop("must be another person than requested_by", "approved_by")
        return self


class OperatorActInput(ControlInput):
    """Something that was done outside of the ledger, to be recorded in it."""

    command: Literal["OperatorAct"]
    act: Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9._-]{0,63}$")]
    subject_id: Annotated[str, StringConstraints(min_length=1, max_length=1_024)]
    digest: Annotated[str, StringConstraints(pattern="^([0-9a-f]{64})?$")] = ""
    requested_by: _Why
    note: _Why
    approved_by: _Second = ""

    @model_validator(mode="after")
    def _four_eyes(self) -> OperatorActInput:
        if self.approved_by == self.requested_by:
            stop("must be another person than requested_by", "approved_by")
        return self


class LimitInput(Input):
    """The most that one window may take; a maximum that is left out does not limit."""

    window: _WINDOW
    currency: Currency | None = None
    count_max: NotNegative | None = None
    amount_max: NotNegative | None = None


class SetLimitInput(ControlInput):
    """All limits of one subject; an empty list lifts them."""

    command: Literal["SetLimit"]
    level: Literal["partner", "account", "product"]
    subject_id: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    limits: Annotated[list[LimitInput], Field(max_length=50)]

    @model_validator(mode="after")
    def _each_limits_something(self) -> SetLimitInput:
        seen: set[tuple[str, str | None]] = set()
        for i, limit in enumerate(self.limits):
            at = f"limits[{i}]"
            if limit.count_max is None and limit.amount_max is None:
                stop("limits nothing: give count_max or amount_max", at)
            if limit.count_max is not None and limit.window == "transaction":
                stop("one transaction is one; give amount_max", f"{at}.count_max")
            if limit.amount_max is not None and limit.currency is None:
                stop("is missing: amount_max is in minor units of it", f"{at}.currency")
            if (limit.window, limit.currency) in seen:
                stop("this window and currency are limited above", at)
            seen.add((limit.window, limit.currency))
        return self

    def record(self, today: date) -> Command:
        limits = tuple(records.Limit(x.window, x.currency or "", x.count_max, x.amount_max) for x in self.limits)
        return records.SetLimit(
            self.partner_id, self.idempotency_key, self.level, self.subject_id, limits, self.requested_by, self.note
        )


class SetCalendarInput(ControlInput):
    """A business-day calendar. `subject_id`: a partner, or bank for everybody without one."""

    command: Literal["SetCalendar"]
    subject_id: PartnerId
    zone: Name
    closed_weekdays: Annotated[list[_WEEKDAY], Field(max_length=6)] = Field(default_factory=list)
    closed_days: Annotated[list[Day], Field(max_length=1_000)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _the_zone_exists(self) -> SetCalendarInput:
        try:
            offsets_of(self.zone)
        except BadInputError as e:
            stop(str(e), "zone")
        return self

    def record(self, today: date) -> Command:
        bits = sum({1 << WEEKDAYS.index(name) for name in self.closed_weekdays})
        days = tuple(records.ClosedDay((d - EPOCH).days) for d in sorted(set(self.closed_days)))
        return records.SetCalendar(
            self.partner_id, self.idempotency_key, self.subject_id, self.zone, offsets_of(self.zone), bits, days,
            self.requested_by, self.note,
        )  # fmt: skip


class CloseDayInput(ControlInput):
    command: Literal["CloseDay"]
    day: Day

    def record(self, today: date) -> Command:
        days = (self.day - EPOCH).days
        return records.CloseDay(self.partner_id, self.idempotency_key, days, self.requested_by, self.note)


class SealedPlaceInput(Input):
    partition: NotNegative
    sequence: NotNegative
    chain: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class SealedTotalInput(Input):
    partition: NotNegative
    currency: Currency
    debits: Annotated[str, StringConstraints(pattern="^[1-9][0-9]{0,37}$")]
    credits: Annotated[str, StringConstraints(pattern="^[1-9][0-9]{0,37}$")]
    postings: NotNegative


class SealDayInput(ControlInput):
    """What the whole ledger had when a day was closed; `clearline close` works it out and gives it."""

    command: Literal["SealDay"]
    day: Day
    hash: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    cut: Annotated[list[SealedPlaceInput], Field(min_length=1, max_length=1_000)]
    totals: Annotated[list[SealedTotalInput], Field(max_length=100_000)]

    def record(self, today: date) -> Command:
        cut = tuple(records.SealedPlace(x.partition, x.sequence, x.chain) for x in self.cut)
        totals = tuple(
            records.SealedTotal(x.partition, x.currency, x.debits, x.credits, x.postings) for x in self.totals
        )
        return records.SealDay(
            self.partner_id, self.idempotency_key, (self.day - EPOCH).days, self.hash, cut, totals, self.requested_by,
            self.note,
        )  # fmt: skip


def _object(value: object) -> object:
    return value if isinstance(value, dict) else stop("must be the product as a JSON object; see docs/products.md")


class PublishProductInput(ControlInput):
    """A version of a product. `effective_from`: first value date that is settled under it, at once when left out."""

    command: Literal["PublishProduct"]
    document: Annotated[dict[str, Any], BeforeValidator(_object)]
    effective_from: Day | None = None

    def record(self, today: date) -> Command:
        product, version = self.document.get("product"), self.document.get("version")
        effective = (self.effective_from - EPOCH).days if self.effective_from is not None else 0
        return records.PublishProduct(
            self.partner_id, self.idempotency_key, product if isinstance(product, str) else "",
            version if isinstance(version, int) and abs(version) < 1 << 31 else 0, effective,
            json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
            self.requested_by, self.note,
        )  # fmt: skip
