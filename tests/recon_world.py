"""What the tests of reconciliation share: postings of an account in a real ClickHouse, and statements of it as files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sinks import migrate
from sinks.clickhouse import Database
from sinks.recon import Recon
from tests.sink_servers import ClickHouseServer

NOSTRO = "bank:nostro:EUR"
FIRST = date(2026, 11, 1)
EPOCH = date(1970, 1, 1)
TABLES = tuple(f"recon_{t}" for t in ("files", "lines", "statements", "links", "breaks", "runs", "words"))


class Posted(NamedTuple):
    """A posting on the account; `amount` signed, plus: a debit of this asset. `day`: of value, after FIRST."""

    day: int
    amount: int
    reference: str = ""
    booked: int | None = None


class Line(NamedTuple):
    """A line of a statement."""

    day: int
    amount: int
    reference: str = ""
    bank_reference: str = ""
    text: str = ""


def on(day: int) -> date:
    return FIRST + timedelta(days=day)


def migrated(server: ClickHouseServer, name: str) -> Recon:
    """A database with the tables, and of the views the one that a cut at a closed day asks."""
    migrate.apply(server.config(name), [*migrate.committed(), *(v for v in migrate.views() if v.name == "closes")])
    return Recon(server.database(name))


def clear(recon: Recon, *tables: str, account: str = NOSTRO) -> Recon:
    """Empties these tables, or all that reconciliation uses; the account is opened and nothing posted. Its currency is
    the last part of its name."""
    db = recon.db
    for table in tables or (*TABLES, "postings", "outcomes", "control_changes"):
        db.run(f"TRUNCATE TABLE {db.name}.{table}")
    if not tables:
        db.run(
            f"INSERT INTO {db.name}.control_changes (topic, partition, offset, source_offset, sequence, command, "
            "partner_id, subject_id, account_type, currency, changes, booked_at, run) VALUES ('journal', 0, 0, 0, 0, "
            f"'OpenAccount', 'bank', '{account}', 'asset', '{account[-3:]}', '', '2026-10-01 00:00:00', 1)"
        )
    return recon


def post(
    db: Database, postings: Sequence[Posted], *, first: int = 1, partition: int = 0, account: str = NOSTRO
) -> None:
    """Journal rows, one record per posting, from sequence `first` on."""
    n = len(postings)
    at = np.arange(first, first + n)
    booked = [
        datetime.combine(on(p.day if p.booked is None else p.booked), datetime.min.time(), UTC) + timedelta(hours=9)
        for p in postings
    ]

    def same(value: bytes) -> np.ndarray:
        return np.array([value] * n, dtype=object)

    place = {
        "topic": same(b"journal"), "partition": np.full(n, partition), "offset": at * 2, "source_offset": at,
        "sequence": at, "booked_at": np.array(booked, dtype=object), "run": np.full(n, 1),
        "partner_id": same(b"bank"), "product": same(b"payments"), "operation": same(b"transfer"),
        "reference": np.array([p.reference.encode() for p in postings], dtype=object), "command_id": same(bytes(16)),
        "value_day": np.array([(on(p.day) - EPOCH).days for p in postings]),
    }  # fmt: skip
    legs = {
        "line": np.full(n, 0), "account_id": same(account.encode()),
        "side_code": np.array([1 if p.amount > 0 else 2 for p in postings]),
        "amount_in": np.array([abs(p.amount) for p in postings]), "currency": same(account[-3:].encode()),
        "counters": same(bytes(64)),
    }  # fmt: skip
    outcome = {
        "outcome": same(b"settled"), "command": same(b"Transaction"), "idempotency_key": same(b""),
        "product_version": np.full(n, 0), "metadata": same(b""), "reason": same(b""), "detail": same(b""),
        "first_offset": np.full(n, -1), "subject_id": same(b""), "legs": np.full(n, 1), "chain": same(bytes(32)),
    }  # fmt: skip
    for month in sorted({(b.year, b.month) for b in booked}):
        rows = np.array([i for i, b in enumerate(booked) if (b.year, b.month) == month])
        for table, columns in (("postings", {**place, **legs}), ("outcomes", {**place, **outcome})):
            db.insert(table, [*columns], [values[rows] for values in columns.values()])


def write_csv(path: Path, lines: Sequence[Line]) -> Path:
    """The lines as the mapping MAPPING reads them."""
    rows = ["day;amount;reference;bank;text"]
    for x in lines:
        amount = f"{'-' if x.amount < 0 else ''}{abs(x.amount) // 100}.{abs(x.amount) % 100:02}"
        rows.append(f"{on(x.day).isoformat()};{amount};{x.reference};{x.bank_reference};{x.text}")
    path.write_text("\n".join(rows) + "\n")
    return path


MAPPING = b"""
currency: EUR
delimiter: ";"
date_format: "%Y-%m-%d"
columns:
  value_date: day
  amount: amount
  reference: {column: reference}
  bank_reference: {column: bank}
  text: {column: text}
"""


def shuffled(items: Sequence[Line], seed: int) -> list[Line]:
    out = list(items)
    random.Random(seed).shuffle(out)
    return out
