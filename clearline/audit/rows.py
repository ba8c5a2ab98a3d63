"""The last row of every key of `ledger.state`, by kind: reading, deleting, and whether a row is older than one before.

Of holds and transactions in flight only the open ones are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clearline.audit.closes import iso
from clearline.audit.following import Rows
from clearline.audit.limits import Subject
from schemas.records import (
    AccountState,
    CalendarState,
    CrossingState,
    DayState,
    FreezeState,
    HoldState,
    LimitState,
    PartitionState,
    PartnerState,
    ProductState,
    Record,
    UsageState,
)

META_KEY = b"meta"
DELETABLE = (b"f:", b"h:", b"l:", b"u:", b"x:")


@dataclass(slots=True)
class StateRows:
    """The rows by what they are of. `said`: limits, calendars, products and flights as rows say them, for what the
    journal does not."""

    meta: PartitionState | None = None
    accounts: dict[str, AccountState] = field(default_factory=dict)
    partners: dict[str, PartnerState] = field(default_factory=dict)
    holds: dict[bytes, HoldState] = field(default_factory=dict)
    usage: dict[Subject, UsageState] = field(default_factory=dict)
    freezes: dict[Subject, FreezeState] = field(default_factory=dict)
    said: Rows = field(default_factory=Rows)

    def keep(self, key: bytes | None, row: object) -> tuple[int, int] | None:
        """Keeps the row as the last of its key; the offsets of the one before and of this one, None for a wrong key."""
        if isinstance(row, PartitionState) and key == META_KEY:
            last, self.meta = self.meta, row
            return (last.next_offset if last else -1), row.next_offset
        placed = self._place(row)
        if placed is None or key != placed[0].encode():
            return None
        _, rows, name = placed
        before = rows.get(name)
        rows[name] = row
        return (before.source_offset if before else -1), row.source_offset  # type: ignore[attr-defined]

    def _place(self, row: object) -> tuple[str, dict[Any, Any], object] | None:
        """The key that a row must have, and where it is kept under which name."""
        where: dict[type[Record], Callable[[Any], tuple[str, dict[Any, Any], object]]] = {
            AccountState: lambda r: (f"a:{r.account_id}", self.accounts, r.account_id),
            PartnerState: lambda r: (f"p:{r.partner_id}", self.partners, r.partner_id),
            HoldState: lambda r: (f"h:{r.hold_id.hex()}", self.holds, r.hold_id),
            LimitState: lambda r: (f"l:{r.level}:{r.subject_id}", self.said.limits, (r.level, r.subject_id)),
            UsageState: lambda r: (f"u:{r.level}:{r.subject_id}", self.usage, (r.level, r.subject_id)),
            FreezeState: lambda r: (f"f:{r.level}:{r.subject_id}", self.freezes, (r.level, r.subject_id)),
            CalendarState: lambda r: (f"c:{r.subject_id}", self.said.calendars, r.subject_id),
            ProductState: lambda r: (f"d:{r.product}:{r.version}", self.said.products, (r.product, r.version)),
            DayState: lambda r: (f"y:{iso(r.day)}", self.said.days, r.day),
            CrossingState: lambda r: (
                f"x:{r.home_partition}:{r.transaction_id.hex()}", self.said.crossings,
                (r.home_partition, r.transaction_id),
            ),
        }  # fmt: skip
        place = where.get(type(row))  # type: ignore[arg-type]
        return place(row) if place else None

    def drop(self, key: bytes) -> bool:
        """Deletes the row of a key, which may be gone already by compaction. False for a key that cannot be deleted."""
        parts = key.decode("utf-8", "replace").split(":", 2)
        try:
            if key.startswith(b"h:"):
                self.holds.pop(bytes.fromhex(parts[1]), None)
            elif key.startswith(b"f:"):
                self.freezes.pop((parts[1], parts[2]), None)
            elif key.startswith(b"l:"):
                self.said.limits.pop((parts[1], parts[2]), None)
            elif key.startswith(b"u:"):
                self.usage.pop((parts[1], parts[2]), None)
            else:
                self.said.crossings.pop((int(parts[1]), bytes.fromhex(parts[2])), None)
        except (ValueError, IndexError):
            return False
        return True
