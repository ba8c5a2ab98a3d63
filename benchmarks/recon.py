"""Reconciliation of a large statement: import, match and store, as CSV and as camt.053, through the real store.

    ./run bench recon
    ./run bench recon --lines 100000 --only csv

The postings are made in the engine. Of 200 lines 180 are plain, 8 a day late, 4 without reference; 2 are missing in the
statement and 1 in the ledger, 1 has another amount, 4 lines stand for two postings each (and so have one fewer).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, Results
from benchmarks.report import Report
from clearline.recon.importing import Given, import_file
from clearline.recon.mapping import Mapping, parse_mapping
from clearline.recon.match import Rules
from clearline.recon.run import Request, run
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance.cut import head
from sinks.recon import Recon

SEED = 0  # nothing is drawn
ACCOUNT = "bank:nostro:EUR"
FIRST = date(2026, 11, 1)
_DAYS = 28
_MAPPING = b"""
currency: EUR
date_format: "%Y-%m-%d"
columns: {value_date: day, amount: amount, reference: {column: reference}, bank_reference: {column: bank},
          text: {column: text}, counterparty: {column: name}}
"""
_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><GrpHdr><MsgId>BENCH</MsgId>
<CreDtTm>2026-11-30T00:00:00</CreDtTm></GrpHdr><Stmt><Id>BENCH</Id><Acct><Id><IBAN>DE89370400440532013000</IBAN></Id>
<Ccy>EUR</Ccy></Acct>
"""
_ENTRY = (
    '<Ntry><NtryRef>{i}</NtryRef><Amt Ccy="EUR">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>'
    "<BookgDt><Dt>{day}</Dt></BookgDt><ValDt><Dt>{day}</Dt></ValDt><AcctSvcrRef>B{i}</AcctSvcrRef><BkTxCd><Domn>"
    "<Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn></BkTxCd><NtryDtls><TxDtls><Refs>"
    "<EndToEndId>{reference}</EndToEndId></Refs><RltdPties><Dbtr><Pty><Nm>Payer {i}</Nm></Pty></Dbtr></RltdPties>"
    "<RmtInf><Ustrd>invoice {i}</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>\n"
)


def lines(count: int) -> Iterator[tuple[int, str, int, str]]:
    """Number, day, amount and reference of each line."""
    days = [(FIRST + timedelta(days=i)).isoformat() for i in range(_DAYS + 2)]
    for i in range(count):
        kind, day, amount, reference = i % 200, i % _DAYS, _amount(i), f"order {i}"
        if kind in (190, 191) or (kind > 191 and kind % 2 and kind < 200):
            continue  # missing in the statement, or the second posting of a line
        if 180 <= kind < 188:
            day += 1
        elif 188 <= kind < 190:
            reference = "NOTPROVIDED"
        elif kind == 192:
            amount += 1
        elif kind > 192:
            amount += _amount(i + 1)
        yield i, days[day], amount, reference


def _amount(i: int) -> int:
    return 100 + i * 7919 % 10_000_000


def post(db: Database, count: int) -> None:
    """The postings, made in the engine: one record each, in one partition."""
    kind = "number % 200"
    reference = f"concat('order ', toString(if({kind} > 193 AND {kind} % 2 = 1, number - 1, number)))"
    day = f"toInt32(toDate('{FIRST}')) + toInt32(number % {_DAYS})"
    place = (
        "'journal', 0, number * 2, number, number + 1, toDateTime64('2026-11-01 08:00:00', 3, 'UTC') + "
        f"toIntervalSecond(number % {_DAYS * 86_400}), 1"
    )
    names = "topic, partition, offset, source_offset, sequence, booked_at, run"
    db.run(
        f"INSERT INTO {db.name}.postings ({names}, line, partner_id, account_id, side_code, amount_in, currency, "
        f"counters, product, operation, reference, command_id, value_day) SELECT {place}, 0, 'bank', '{ACCOUNT}', 1, "
        f"toInt64(100 + number * 7919 % 10000000), 'EUR', toFixedString('', 64), 'payment', 'transfer', {reference}, "
        f"toFixedString('', 16), {day} FROM numbers({count})"
    )
    db.run(
        f"INSERT INTO {db.name}.outcomes ({names}, outcome, command, partner_id, idempotency_key, command_id, product, "
        "product_version, operation, value_day, reference, metadata, reason, detail, first_offset, subject_id, legs, "
        f"chain) SELECT {place}, 'settled', 'Transaction', 'bank', '', toFixedString('', 16), 'payment', 1, "
        f"'transfer', {day}, {reference}, '', '', '', -1, '', 1, toFixedString('', 32) FROM numbers({count})"
    )
    db.run(
        f"INSERT INTO {db.name}.control_changes (topic, partition, offset, source_offset, sequence, command, "
        "partner_id, subject_id, account_type, currency, changes, booked_at, run) SELECT 'journal', 0, 0, 0, 0, "
        f"'OpenAccount', 'bank', '{ACCOUNT}', 'asset', 'EUR', '', now(), 1"
    )


def write_csv(path: Path, count: int) -> None:
    """The lines as CSV."""
    with path.open("w") as out:
        out.write("day,amount,reference,bank,text,name\n")
        for i, day, amount, reference in lines(count):
            out.write(f"{day},{amount // 100}.{amount % 100:02},{reference},B{i},invoice {i},Payer {i}\n")


def write_camt(path: Path, count: int) -> None:
    """The lines as one camt.053 statement."""
    with path.open("w") as out:
        out.write(_HEAD)
        for i, day, amount, reference in lines(count):
            shown = f"{amount // 100}.{amount % 100:02}"
            out.write(_ENTRY.format(i=i, amount=shown, day=day, reference=reference))
        out.write("</Stmt></BkToCstmrStmt></Document>")


@contextmanager
def server(folder: Path) -> Iterator[ClickHouseConfig]:
    """The development ClickHouse, alone."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "clearline.embedded.clickhouse_server", str(folder / "data"), "--port", "0"]
    process = subprocess.Popen([*command, "--http-port", "0", "--ready-file", str(ready)], stderr=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise RuntimeError("the ClickHouse server ended")
            time.sleep(0.05)
        yield ClickHouseConfig("127.0.0.1", json.loads(ready.read_text())["port"], "clearline_recon", timeout_s=300)
    finally:
        process.terminate()
        process.wait(30)


def measure(config: ClickHouseConfig, path: Path, mapping: Mapping | None, count: int) -> dict[str, Any]:
    """Seconds of import and run, and what was found."""
    migrate.apply(config)
    db = Database(config)
    post(db, count)
    recon = Recon(db)
    steps: dict[str, float] = {}
    at, now_doing = time.perf_counter(), ""

    def progress(what: str, _done: int, _total: int) -> None:
        if what != now_doing:
            mark(what)

    def mark(what: str) -> None:
        nonlocal at, now_doing
        now = time.perf_counter()
        if now_doing:
            steps[now_doing] = round(now - at, 2)
        at, now_doing = now, what

    start, used = time.perf_counter(), time.process_time()
    mark("reading")
    imported = import_file(recon, path, ACCOUNT, mapping, Given(), progress)
    mark("")
    read = time.perf_counter()
    mark("asking")
    done = run(recon, Request(ACCOUNT, head(db), Rules(1, 0)), progress)
    mark("")
    end, used = time.perf_counter(), time.process_time() - used
    again = run(recon, Request(ACCOUNT, head(db), Rules(1, 0)))
    if again.new or again.row.result != done.row.result or import_file(recon, path, ACCOUNT, mapping, Given()).new:
        raise RuntimeError("done again, it changed something")
    stored = sum(s.lines for s in imported.statements)
    db.close()
    figures = done.row.figures
    return {
        "lines": stored, "postings": count, "file_mb": round(path.stat().st_size / 1e6, 1),
        "import_s": round(read - start, 2), "run_s": round(end - read, 2), "total_s": round(end - start, 2),
        "lines_per_s": round(stored / (end - start)),
        "processor_s": round(used, 2), "lines_per_processor_s": round(stored / used), "steps_s": steps,
        "matches": figures["matches"],
        "breaks": {k: v["count"] for k, v in figures["breaks"].items() if v["count"]},
        "again_s": round(time.perf_counter() - end, 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_031_000, help="postings; of 100 of them come 97 lines")
    parser.add_argument("--only", choices=("csv", "camt"))
    parser.add_argument("--json", action="store_true", help="lines of JSON on stdout")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder in which results are kept")
    options = parser.parse_args()
    report = Report(Results("recon", SEED, options.results), options.json)
    for form in ("csv", "camt") if options.only is None else (options.only,):
        with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as config:
            path = Path(folder) / f"statement.{form}"
            (write_csv if form == "csv" else write_camt)(path, options.lines)
            mapping = parse_mapping("bench", _MAPPING) if form == "csv" else None
            report.add(form, measure(config, path, mapping, options.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
