"""Every figure of one partition's recomputed ledger: a plain dict each, so that the rules can be read beside them."""

from __future__ import annotations

from clearline.audit.contract import Terms
from schemas.identity import BANK
from schemas.records import FreezeState, JournalRecord, PendingLeg, PostedLeg

LONG_MAX = 2**63 - 1
COUNTER_MAX = 10**38 - 1
LAST_DAY = 120_529  # 2299-12-31, days since 1970-01-01
DEBIT_NORMAL = {"asset", "expense"}
TRANSIT = "bank:crossing:"  # accounts of money between partitions

Leg = tuple[str, str, int, str]  # account, side, amount in minor units, currency


class Figures:
    """What is known of partners and accounts. `partition`: which of `terms.partitions` this is."""

    def __init__(self, terms: Terms, partition: int = 0) -> None:
        self.terms = terms
        self.partition = partition
        self.event_time = 0  # ms UTC, the highest append time so far
        self.closed_through = -1  # days since 1970-01-01
        # Where commands are no longer kept, some things are said by nothing (see `following`): which, and what the
        # journal has for the command that is looked at. It counts for those things alone.
        self.unsure_calendars: set[str] = set()
        self.unsure_limits: set[tuple[str, str]] = set()
        self.unsure_usage: set[tuple[str, str]] = set()
        self.witness: JournalRecord | None = None
        self.partner_state: dict[str, str] = {}
        self.partner_name: dict[str, str] = {}
        self.partner_offset: dict[str, int] = {}
        self.answers: dict[tuple[str, str], str] = {}  # what `denied` said, until a partner changes
        self.type: dict[str, str] = {}
        self.currency: dict[str, str] = {}
        self.limit: dict[str, int | None] = {}  # min_available, minor units
        self.credit_limit: dict[str, int] = {}
        self.debits_blocked: dict[str, bool] = {}
        self.credits_blocked: dict[str, bool] = {}
        self.frozen: dict[str, bool] = {}
        self.freezes: dict[tuple[str, str], FreezeState] = {}  # by level and subject
        self.closed: dict[str, bool] = {}
        self.debits: dict[str, int] = {}
        self.credits: dict[str, int] = {}
        self.debits_pending: dict[str, int] = {}
        self.credits_pending: dict[str, int] = {}
        self.touched: dict[str, int] = {}  # account -> offset of the last command that changed it

    def new_account(
        self, offset: int, a: str, kind: str, currency: str, limit: int | None, credit_limit: int = 0
    ) -> None:
        """An account with all counters at zero."""
        self.type[a], self.currency[a], self.limit[a], self.credit_limit[a] = kind, currency, limit, credit_limit
        self.debits_blocked[a] = self.credits_blocked[a] = self.frozen[a] = self.closed[a] = False
        self.debits[a] = self.credits[a] = self.debits_pending[a] = self.credits_pending[a] = 0
        self.touched[a] = offset

    def available(self, account: str) -> int:
        """What the account can still give, minor units; negative when it is overdrawn."""
        if self.type[account] in DEBIT_NORMAL:
            return self.debits[account] - self.credits[account] - self.credits_pending[account]
        return self.credits[account] - self.debits[account] - self.debits_pending[account]

    def floor(self, account: str) -> int | None:
        """The least that a command may leave available, minor units; None for any."""
        limit = self.limit[account]
        return None if limit is None else limit - self.credit_limit[account]

    def counters(self, account: str) -> tuple[int, int, int, int]:
        """Debits pending and posted, credits pending and posted, minor units."""
        return (
            self.debits_pending[account], self.debits[account], self.credits_pending[account], self.credits[account]
        )  # fmt: skip

    def is_away(self, root: str) -> bool:
        """Whether a root partner's accounts lie in another partition; the bank's lie in each."""
        return root != BANK and self.terms.partitions > 1 and self.terms.place(root) != self.partition


def follow_counters(figures: Figures, record: JournalRecord) -> None:
    """Takes a trusted record's counters, in the order in which it gives them."""
    legs: list[PendingLeg | PostedLeg] = [*record.pending, *record.postings]
    for leg in legs:
        a = leg.account_id
        figures.debits[a], figures.credits[a] = leg.debits_posted, leg.credits_posted
        figures.debits_pending[a], figures.credits_pending[a] = leg.debits_pending, leg.credits_pending
        figures.touched[a] = record.source_offset
