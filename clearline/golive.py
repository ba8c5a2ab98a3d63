"""Go-live: the bank's two persons. One asks, another approves, and the ledger takes the partner from sandbox to live.

A partner's checks and request are in its sandbox world; its life (applied, inspected, sandbox, live) is that of the
live world. Both may be on one Kafka, by their prefixes, or each have its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import NamedTuple

import msgspec

from clearline.config import Settings
from clearline.connection import Connection, connect
from clearline.control import give
from clearline.directory import read_directory
from clearline.gateway.onboarding import PREFIX, missing, row_of
from clearline.outcomes import Outcome
from schemas.errors import BadInputError
from schemas.records import Onboarding, SetPartnerState
from streams.table import Table

SANDBOX, LIVE = "sandbox", "live"


class Approved(NamedTuple):
    """What was decided. `outcome` None: nothing was changed, it was a dry run."""

    row: Onboarding
    outcome: Outcome | None


@contextmanager
def _access(settings: Settings) -> Iterator[Table]:
    """The table of a world in which the partners' rows are."""
    system = connect(settings)
    with Table(system.kafka, system.topics.access, system.codec) as table:
        yield table


def look(sandbox: Settings, partner_id: str) -> Onboarding:
    """A partner's row in its sandbox. Raises PartUnavailableError."""
    with _access(sandbox) as table:
        return row_of(table, partner_id)


def request(sandbox: Settings, partner_id: str, requested_by: str, note: str, *, dry_run: bool = False) -> Onboarding:
    """The bank's own person asks for a partner's go-live. Raises BadInputError when checks are missing."""
    _named("--requested-by", requested_by)
    _named("--note", note)
    with _access(sandbox) as table:
        row = row_of(table, partner_id)
        _complete(row)
        if row.approved_at:
            raise BadInputError(f"{partner_id} was approved before, by {row.approved_by}")
        row = msgspec.structs.replace(row, requested_by=requested_by, requested_at=_now_ms(), note=note)
        if not dry_run:
            table.put(PREFIX + partner_id, row)
    return row


def approve(
    sandbox: Settings, live: Settings, partner_id: str, approved_by: str, note: str, *, live_as: str = "",
    dry_run: bool = False,
) -> Approved:  # fmt: skip
    """The second person approves: the ledger of the live world takes the partner live, with both names in its journal.

    `live_as`: the partner's path there, by default the same. Raises BadInputError when both are one person, when checks
    or the request are missing, and when the partner is not in state sandbox there; RejectedError, PartUnavailableError.
    """
    _named("--approved-by", approved_by)
    _named("--note", note)
    subject = live_as or partner_id
    with _access(sandbox) as table:
        row = row_of(table, partner_id)
        _complete(row)
        if not row.requested_at:
            raise BadInputError(f"nobody has asked for {partner_id}: see `clearline onboard request --help`")
        if _same(row.requested_by, approved_by):
            raise BadInputError(f"{approved_by} asked for it: another person must approve")
        if row.approved_at:
            raise BadInputError(f"{partner_id} was approved before, by {row.approved_by}")
        there = connect(live)
        _in_sandbox(there, subject, again=not dry_run)
        outcome = None
        row = msgspec.structs.replace(
            row, approved_by=approved_by, approved_at=_now_ms(), approval=note, live_as=subject
        )
        if not dry_run:
            # Under a key of this request: killed before the row was written, the same approval is a repeat.
            key = f"go-live-{sha256(f'{partner_id} {subject} {row.requested_at}'.encode()).hexdigest()[:32]}"
            command = SetPartnerState("bank", key, subject, LIVE, row.requested_by, note, approved_by)
            outcome = give(there, command)[0]
            table.put(PREFIX + partner_id, row)
    return Approved(row, outcome)


def _complete(row: Onboarding) -> None:
    left = missing(row)
    if left:
        raise BadInputError(f"{row.partner_id} has not passed {', '.join(left)}; see `clearline onboard show`")


def _in_sandbox(there: Connection, partner_id: str, *, again: bool) -> None:
    """`again`: it may be live already, by this very approval; then the ledger says so."""
    partner = read_directory(there, partner_id).partners.get(partner_id)
    if partner is None:
        raise BadInputError(f"there is no partner {partner_id} in {there.topics.world}; give its path with --live-as")
    if partner.state not in ((SANDBOX, LIVE) if again else (SANDBOX,)):
        raise BadInputError(f"{partner_id} is {partner.state} in {there.topics.world}; only from sandbox it goes live")


def _named(option: str, value: str) -> None:
    if not value.strip():
        raise BadInputError(f"{option} is missing: it stands in the journal")


def _same(a: str, b: str) -> bool:
    """Whether two names are one person's, however they are written."""
    return a.strip().casefold() == b.strip().casefold()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
