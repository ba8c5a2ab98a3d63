"""Readers on a server: the SQL that makes them, as far as the engine at hand can tell, and its row policies against the
development server's own way of leaving rows out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.clickhouse import Database
from sinks.finance.readers import OWNER, Reader, removal, shape, statements
from tests.hostile_statements import EVERYTHING, OF_ALL, PERIOD
from tests.reader_world import World, world

pytestmark = pytest.mark.stack

# The engine opens the ledger's own folder with row policies for its only user, and answers the same questions.
ENGINE = """
import json, sys
folder, config, asked = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
import chdb
engine = chdb.connect(f"{folder}?config-file={config}&max_thread_pool_size=200")
print(json.dumps([json.loads(engine.query(text, "JSONCompact").bytes())["data"] for text in asked]))
engine.close()
"""
POLICIES = """<clickhouse>
<profiles><default></default></profiles><quotas><default></default></quotas>
<users><default>
    <password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
    <databases><{database}>{filters}</{database}></databases>
</default></users>
</clickhouse>
"""


def asked(database: str) -> list[str]:
    """Every table, and reports over them, with the rows in an order."""
    place = "partition, offset, line"
    return [
        f"SELECT {place}, account_id, toString(amount) FROM {database}.postings ORDER BY {place}",
        f"SELECT {place}, account_id, toString(change) FROM {database}.pending ORDER BY {place}",
        f"SELECT partition, offset, outcome, partner_id FROM {database}.outcomes ORDER BY partition, offset",
        f"SELECT partition, offset, subject_id FROM {database}.control_changes ORDER BY partition, offset, subject_id",
        f"SELECT day, partner, product, currency, toString(debits), toString(credits) "
        f"FROM {database}.report_totals({EVERYTHING}, {PERIOD}, {OF_ALL}) ORDER BY day, partner, product, currency",
        f"SELECT account, currency, toString(balance) "
        f"FROM {database}.report_balances({EVERYTHING}, {PERIOD}, partner = '', account = '') ORDER BY account, currency",
        f"SELECT reason, rejected FROM {database}.report_rejections({EVERYTHING}, {PERIOD}, partner = '', reason = '') "
        "ORDER BY day, reason, product, partner",
    ]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = world(tmp_path_factory.mktemp("readers"), seed=3, records=600)
    yield running
    running.server.stop()


def test_a_servers_statements_are_understood_by_the_engine(ledger: World) -> None:
    """The engine's own parser reads every statement that makes or ends a reader on a server."""
    db = Database(ledger.config)
    found = shape(db)
    made = statements(Reader("acme_reader", "acme/shop-17", True), found, "ab" * 32, "cd" * 16)
    for text in [*made, *removal("acme_reader", found)]:
        db.rows(f"EXPLAIN AST {text}")
    policies = [text for text in made if text.startswith("CREATE ROW POLICY")]
    assert len(policies) == len(OWNER)
    granted = [text for text in made if text.startswith("GRANT")]
    assert not any("dead_letters" in text or "ingest" in text or "seals" in text for text in granted)
    assert not any("`detail`" in text or "`changes`" in text for text in granted)
    assert any("report_totals" in text for text in granted)
    db.close()


def test_the_engines_row_policies_leave_the_same_rows(ledger: World, tmp_path: Path) -> None:
    """The last test here: it stops the server, for the engine to open its folder."""
    readers = [("p1", True), ("p0", True), ("p0/shop-0", False), ("p1", False)]
    database, ours = ledger.config.database, []
    for partner, tree in readers:
        with ledger.http(ledger.add(partner, tree=tree)) as web:
            answers = [web.post("/", params={"default_format": "JSONCompact"}, content=t) for t in asked(database)]
        ours.append([answer.json()["data"] for answer in answers])
        assert all(ours[-1][:3])
    ledger.server.stop()
    for (partner, tree), found in zip(readers, ours, strict=True):
        assert of_the_engine(ledger, tmp_path, Reader("x", partner, tree)) == found


def of_the_engine(ledger: World, folder: Path, reader: Reader) -> list[list[list[Any]]]:
    """The same answers, by row policies."""
    database = ledger.config.database
    filters = "".join(f"<{table}><filter>{reader.condition(table)}</filter></{table}>" for table in OWNER)
    (folder / "users.xml").write_text(POLICIES.format(database=database, filters=filters))
    config = folder / "config.xml"
    config.write_text(f"<clickhouse><users_config>{folder / 'users.xml'}</users_config></clickhouse>")
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(ledger.server.folder / "data"), str(config)],
        input=json.dumps(asked(database)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: list[list[list[Any]]] = json.loads(done.stdout)
    return answers
