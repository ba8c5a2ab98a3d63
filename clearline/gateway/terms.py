"""Partners, products and limits as a gateway shows them, from rows of `ledger.state`, wherever these are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from clearline.gateway.reads import Level, LimitRow, UsedRow
from ledger.calendars import calendar_of, local_date, window_ends, window_number
from ledger.limits import ACCOUNT, PARTNER, PRODUCT, TRANSACTION
from ledger.products import compiled
from schemas.identity import BANK, owner_of, partition_of, root_of
from schemas.records import Limit, LimitState, PartnerState, ProductState, Record, UsageState


class StateRows(Protocol):
    """Rows of `ledger.state` by partition and key: `streams.state_rows.StateRows`, or the twin's Books."""

    def row(self, partition: int, key: str) -> Record | None: ...
    def keys(self, partition: int, prefix: str, after: str = "") -> Iterator[str]: ...


class _Partition(NamedTuple):
    """The rows of one partition, as calendars are looked up in them."""

    rows: StateRows
    partition: int

    def row(self, key: str, /) -> Record | None:
        return self.rows.row(self.partition, key)


class Terms:
    """What the rows say. `now_ms`: the time, milliseconds UTC, which decides what windows are open."""

    def __init__(self, rows: StateRows, partitions: int, now_ms: Callable[[], int]) -> None:
        self._rows = rows
        self._partitions = partitions
        self._now_ms = now_ms

    def partner(self, partner_id: str) -> PartnerState | None:
        """One partner, whatever its state."""
        found = self._rows.row(self._place(partner_id), f"p:{partner_id}")
        return found if isinstance(found, PartnerState) else None

    def partners(self, above: str, after: str, limit: int) -> list[PartnerState]:
        """Partners strictly below one, by id."""
        keys = self._rows.keys(self._place(above), f"p:{above}/", f"p:{after}")
        found = (self.partner(key[2:]) for key in islice(keys, limit))
        return [p for p in found if p is not None]

    def products(self) -> list[ProductState]:
        """Every version on the shelf, by product and rising version. Each partition has the same shelf."""
        return self._versions("d:")

    def limits(self, partner_id: str, after: tuple[str, str], limit: int) -> list[LimitRow]:
        """What limits a partner's tree, by level and subject. What a product's limits have used is the whole root's:
        only the root sees it."""
        root = partner_id if partner_id == root_of(partner_id) else ""
        subjects = (s for s in self._subjects(partner_id, after) if s > after)
        found = (self.limit(level, subject, root) for level, subject in subjects)
        return list(islice((row for row in found if row is not None), limit))

    def limit(self, level: Level, subject_id: str, root: str) -> LimitRow | None:
        """One subject's limits; None when it has none. `root`: whose use of a product is told, empty for nobody's."""
        whose = {PARTNER: subject_id, ACCOUNT: owner_of(subject_id)}.get(level, root)
        place = _Partition(self._rows, self._place(whose))
        row = place.row(f"l:{level}:{subject_id}")
        limits = row.limits if isinstance(row, LimitState) else ()
        if level == PRODUCT:
            limits = (*limits, *self._of_document(subject_id))
        if not limits:
            return None
        key = f"{root} {subject_id}" if level == PRODUCT else subject_id
        usage = place.row(f"u:{level}:{key}") if whose else None
        return LimitRow(level, subject_id, limits, self._used(place, whose, limits, usage))

    def _subjects(self, partner_id: str, after: tuple[str, str]) -> Iterator[tuple[Level, str]]:
        """Who may have limits, by level and subject: accounts and partners of the tree, products. In ids a slash comes
        before a colon, so what is below comes before a partner's own accounts."""
        place = self._place(partner_id)
        for prefix in (f"l:{ACCOUNT}:{partner_id}/", f"l:{ACCOUNT}:{partner_id}:"):
            for key in self._rows.keys(place, prefix, "l:" + ":".join(after)):
                yield "account", key.removeprefix(f"l:{ACCOUNT}:")
        yield "partner", partner_id
        for key in self._rows.keys(place, f"l:{PARTNER}:{partner_id}/", "l:" + ":".join(after)):
            yield "partner", key.removeprefix(f"l:{PARTNER}:")
        named = {key.removeprefix(f"l:{PRODUCT}:") for key in self._rows.keys(0, f"l:{PRODUCT}:")}
        named |= {key.split(":")[1] for key in self._rows.keys(0, "d:")}
        yield from (("product", name) for name in sorted(named))

    def _of_document(self, product: str) -> tuple[Limit, ...]:
        """The limits of the product's version that is in force today by the settlement calendar."""
        today = local_date(calendar_of(_Partition(self._rows, 0), BANK), self._now_ms())
        versions = [p for p in self._versions(f"d:{product}:") if p.effective_from <= today]
        return compiled(versions[-1].document).limits if versions else ()

    def _versions(self, prefix: str) -> list[ProductState]:
        found = (self._rows.row(0, key) for key in self._rows.keys(0, prefix))
        return sorted((p for p in found if isinstance(p, ProductState)), key=lambda p: (p.product, p.version))

    def _used(
        self, place: _Partition, partner_id: str, limits: tuple[Limit, ...], usage: Record | None
    ) -> tuple[UsedRow, ...]:
        """What the windows that are open now have taken, one row for each limit with a window."""
        if not partner_id:
            return ()
        now, calendar = self._now_ms(), calendar_of(place, partner_id)
        known = {(u.window, u.currency): u for u in (usage.used if isinstance(usage, UsageState) else ())}
        out: dict[tuple[str, str], UsedRow] = {}
        for limit in limits:
            if limit.window == TRANSACTION:
                continue
            u = known.get((limit.window, limit.currency))
            is_open = u is not None and u.start == window_number(calendar, limit.window, now)
            count, amount = (u.count, u.amount) if u is not None and is_open else (0, 0)
            ends = window_ends(calendar, limit.window, now)
            out[limit.window, limit.currency] = UsedRow(limit.window, limit.currency, count, amount, ends)
        return tuple(out.values())

    def _place(self, partner_id: str) -> int:
        return partition_of(partner_id, self._partitions)
