"""What the gateway is put together from, as protocols: the real parts (`serve.py`) and their twins in memory
(`clearline/gateway/twin.py`) pass the same contract tests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from clearline.config import Settings
from clearline.gateway.call_meter import CallMeter
from clearline.gateway.partner_tables import NoTables, PartnerTables
from clearline.gateway.reporting import NoReports, Reporting
from clearline.webhooks.ports import WebhookParts
from schemas.errors import PartUnavailableError
from schemas.identity import owner_of, root_of
from schemas.records import AccountState, Command, HoldState, JournalRecord, LimitState, Record
from sinks.gate import Taken, What
from streams.calls import Called, Found, Later, Place, Unsettled

if TYPE_CHECKING:
    from clearline.gateway.console.parts import ConsoleParts
    from clearline.gateway.outcomes import Outcomes
    from clearline.gateway.reads import Reads

__all__ = ["Called", "Caller", "Found", "Finder", "Gate", "Parts", "Place", "Rows", "Taken", "wall_clock_ms"]


def wall_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Tree(NamedTuple):
    """What `ledger.state` has of a root partner's tree: open holds, accounts by id, limits of partners and accounts.
    `next_offset`: of the first command that is not in it."""

    holds: list[HoldState]
    accounts: dict[str, AccountState]
    limits: list[LimitState]
    next_offset: int


def limits_tree(row: LimitState, root: str) -> bool:
    """Whether these are limits of a partner or an account of a root's tree."""
    owner = owner_of(row.subject_id) if row.level == "account" else row.subject_id
    return row.level != "product" and root_of(owner) == root


async def no_tree(root: str) -> Tree:
    """For parts that do not read whole trees."""
    raise PartUnavailableError("ledger.state", root, "this gateway does not read whole trees")


class Caller(Protocol):
    """Publishes commands and takes their outcomes from `replies`. It is made with whoever keeps them (`Outcomes.kept`),
    who is told of every outcome once, also when nobody waits for it any more."""

    async def call(self, command: Command, wait_s: float = 0.0) -> Called:
        """Returns when the broker has it, or at most `wait_s` later with its outcome. Without a wait the outcome is
        still taken and kept. Raises PartUnavailableError when it was not acknowledged: then nobody knows whether the
        log has it."""
        ...

    async def call_many(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Called | Exception]:
        """The same for many at once, each on its own; in their order."""
        ...


class Finder(Protocol):
    """Looks commands up that this gateway did not see answered itself."""

    async def by_id(self, command_id: bytes) -> Found | None:
        """The command of this id. Raises PartUnavailableError."""
        ...

    async def at(self, partition: int, offset: int) -> Found | None:
        """The command at a place of the log, once the journal has it. Raises PartUnavailableError."""
        ...

    async def waiting(self, partition: int, command_id: bytes) -> Unsettled | None:
        """A command of this id that is in the log of a partition and has no outcome yet. Raises
        PartUnavailableError."""
        ...

    async def record(self, partition: int, offset: int) -> JournalRecord | None:
        """The journal record of the command at exactly this place, be it the last word or not."""
        ...

    async def later(self, partition: int, offset: int, name: bytes, most: int) -> Later:
        """Of the `most` journal records after that of the command at this place those that hold these bytes."""
        ...


class Rows(Protocol):
    """A table of rows by key: `streams.table.Table`."""

    def get(self, key: str) -> Record | None: ...
    def items(self, prefix: str = "") -> Iterator[tuple[str, Record]]: ...
    def put(self, key: str, row: Record | None, timeout_s: float = 15.0) -> None: ...


class Gate(Protocol):
    """Redis as a gate and as quick memory: limits of calls, nonces, outcomes at hand. Never raises because Redis is
    away: then it goes on in this process's own memory (limits, nonces) or knows nothing (outcomes)."""

    async def take(self, root: str, calls: int, what: What = "calls") -> Taken: ...
    async def first_use(self, key_id: str, nonce: str, for_s: int) -> bool:
        """Whether this nonce is new."""
        ...

    async def outcome(self, command_id: bytes) -> dict[str, Any] | None: ...
    async def keep_outcomes(self, documents: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
        """Keeps what `outcome` gives, by command id."""
        ...

    @property
    def local(self) -> bool:
        """Whether the last call found Redis away."""
        ...


@dataclass(slots=True)
class Parts:
    """One gateway's parts. `base_url`: of the pages of codes, without a slash at the end. `now_ms`: the wall clock, or
    a test's; `ready`: why this gateway cannot serve, one sentence each, empty when it can; `figures`: of status;
    `tree`: all that the state has of a root, read anew; `memory`: what routes remember while the process lives;
    `reporting`: what makes reports; `tables`: partners' own; `meter`: what counts the calls for the platform's day,
    None for nobody; `console`: of the page for operators, None for a gateway without it; `stopping`: whether this
    gateway takes nothing new any more, so that what would never end must end."""

    settings: Settings
    base_url: str
    partitions: int
    message_bytes_max: int
    caller: Caller
    finder: Finder
    access: Rows
    gate: Gate
    reads: Reads
    outcomes: Outcomes
    now_ms: Callable[[], int] = wall_clock_ms
    ready: Callable[[], list[str]] = list
    figures: Callable[[], dict[str, Any]] = dict
    webhooks: WebhookParts = field(default_factory=WebhookParts)
    tree: Callable[[str], Awaitable[Tree]] = no_tree
    memory: dict[str, Any] = field(default_factory=dict)
    meter: CallMeter | None = None
    reporting: Reporting = field(default_factory=NoReports)
    tables: PartnerTables = field(default_factory=NoTables)
    console: ConsoleParts | None = None
    stopping: Callable[[], bool] = lambda: False
