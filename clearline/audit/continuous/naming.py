"""From a stretch whose sums differ to the rows, columns and transactions behind it.

The stretch's records are read from the journal again, so a difference is never said from sums alone: if it is the sums
that were wrong, they are put right and nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from clearline.audit.continuous.difference import CLICKHOUSE, Difference
from clearline.audit.continuous.running import sums_of
from sinks.checksums import TABLES, Rows, Table, expected_rows, rows_of
from sinks.rows import JournalRows
from sinks.stored_sums import NONE, Key, StoredSums, Sums

# Reads the journal of a partition from an offset to before another, again.
Reread = Callable[[int, int, int], Iterable[JournalRows]]

NAMED_MAX = 20  # offsets of a stretch that are looked at row by row
_BY_NAME = {t.name: t for t in TABLES}
_WHAT = {"postings": "posting", "pending": "pending leg", "outcomes": "outcome", "control_changes": "change"}


class Stretch:
    """The records of one stretch, read again. `end`: the cut, offset after its last record."""

    def __init__(self, key: Key, first: int, end: int, reread: Reread) -> None:
        self.key, self.end = key, end
        self.table: Table = _BY_NAME[key.table]
        self._pieces = list(reread(key.partition, first, end))
        rows = [rows_of(self.table, j) for j in self._pieces]
        self._rows = [r.take((r.month == key.month) & (r.currency == key.currency.encode())) for r in rows]
        self.sums: Sums = sums_of(key.table, self._rows).get(key, NONE)

    def differences(self, store: StoredSums) -> Iterator[Difference]:
        """What is stored otherwise, row by row; of many the first."""
        wrong = self._wrong_offsets(store)[:NAMED_MAX]
        if not wrong:
            return
        stored = store.rows(self.table, self.key, wrong)
        expected: dict[tuple[Any, ...], dict[str, Any]] = {}
        names: dict[int, tuple[str, str]] = {}
        for j in self._pieces:
            records = np.flatnonzero(np.isin(j.offset, wrong))
            in_month = j.months(records) == (self.key.month // 100 - 1970) * 12 + self.key.month % 100 - 1
            expected |= expected_rows(self.table, j, records[in_month])
            names |= dict(zip(j.offset[records].tolist(), _transactions(j, records), strict=True))
        for place in sorted({*stored, *expected}, key=str):
            if stored.get(place) != expected.get(place):
                yield self._difference(place, stored.get(place), expected.get(place), names.get(place[0]))

    def _wrong_offsets(self, store: StoredSums) -> list[int]:
        stored = store.by_offset(self.table, self.key, self.end)
        own: dict[int, tuple[int, int]] = {}
        for piece in self._all_currencies():
            for offset, checksum in zip(piece.offset.tolist(), piece.checksum.tolist(), strict=True):
                count, sum_ = own.get(offset, (0, 0))
                own[offset] = count + 1, (sum_ + checksum) % 2**64
        return sorted(o for o in {*stored, *own} if stored.get(o) != own.get(o))

    def _all_currencies(self) -> Iterator[Rows]:
        for j in self._pieces:
            rows = rows_of(self.table, j)
            yield rows.take(rows.month == self.key.month)

    def _difference(
        self, place: tuple[Any, ...], stored: dict[str, Any] | None, wanted: dict[str, Any] | None,
        name: tuple[str, str] | None,
    ) -> Difference:  # fmt: skip
        row = wanted or stored
        assert row is not None, "a place is of one of them"
        transaction, account = (name or ("", ""))[0], str(row.get("account_id", "")) or (name or ("", ""))[1]
        of = f" of {transaction}" if transaction else ""
        what = f"{_WHAT[self.key.table]}{_label(row)}{of} (sequence {row['sequence']}, journal offset {place[0]})"
        if stored is None:
            text = f"{what} is not stored"
        elif wanted is None and place[-1] > 0:
            text = f"{what} is stored {place[-1] + 1} times"
        elif wanted is None:
            text = f"{what} is stored and was never journaled"
        else:
            pairs = [f"{c} is {stored[c]!r}, journaled {wanted[c]!r}" for c in wanted if stored[c] != wanted[c]]
            text = f"{what}: {'; '.join(pairs)}"
        return Difference(CLICKHOUSE, self.key.partition, f"{self.key.table}: {text}"[:600], account, transaction)


def _label(row: dict[str, Any]) -> str:
    """Which row of its record it is, and what it says."""
    amount = row.get("amount", row.get("change"))
    if amount is not None:
        side = "debit" if row["side"] == 1 else "credit"
        return f" {row['line']} ({row['account_id']}, {side} {amount} {row['currency']})"
    return f" of {row['subject_id']}" if "account_type" in row else ""


def _transactions(j: JournalRows, records: Any) -> Iterator[tuple[str, str]]:
    """Partner and idempotency key, and the subject, of each of these records."""
    texts = (j.text(n, records).tolist() for n in ("partner_id", "idempotency_key", "subject_id"))
    for partner, key, subject in zip(*texts, strict=True):
        yield f"{partner.decode()} {key.decode()}", subject.decode()
