"""Which partners and accounts there are, read from `ledger.state` as a worker that takes over would read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clearline.connection import Connection
from ledger.names import within
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import AccountState, HoldState, PartitionState, PartnerState, Record
from streams.reader import read_to_end


@dataclass(frozen=True, slots=True)
class Directory:
    """What was committed when it was read. Accounts of the bank have one shard per partition: they are lists."""

    partners: dict[str, PartnerState]
    accounts: dict[str, list[AccountState]]
    partitions: dict[int, PartitionState]
    rows: dict[int, dict[str, Record]]  # limits, usage, calendars, products and what is in flight, by partition and key


def read_directory(system: Connection, subject: str = "") -> Directory:
    """The directory, or only the partition of `subject` (a partner or account; the bank's are in every partition)."""
    root = root_of(owner_of(subject))
    start = {partition_of(root, system.partitions): 0} if root and root != BANK else None
    last: dict[tuple[int, bytes], bytes | None] = {}
    for r in read_to_end(system.kafka, system.topics.state, start):
        last[r.partition, r.key or b""] = r.value
    found = Directory({}, {}, {}, {})
    for (partition, key), value in last.items():
        state = system.codec.decode(value) if value else None
        if isinstance(state, AccountState):
            found.accounts.setdefault(state.account_id, []).append(state)
        elif isinstance(state, PartnerState):
            found.partners[state.partner_id] = state
        elif isinstance(state, PartitionState):
            found.partitions[partition] = state
        elif isinstance(state, Record) and not isinstance(state, HoldState):
            found.rows.setdefault(partition, {})[key.decode()] = state
    return found


def below(partner_id: str, ids: Iterable[str]) -> list[str]:
    """Those of the partners or accounts that belong to a partner's tree, sorted; all when `partner_id` is empty."""
    return sorted(i for i in ids if not partner_id or within(owner_of(i), partner_id))
