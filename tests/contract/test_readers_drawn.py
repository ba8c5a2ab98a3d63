"""Drawn statements: a partner's reader gets from the ledger what anybody would get from a table with only its rows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from sinks.finance.readers import Limits
from tests.reader_world import World, world

pytestmark = pytest.mark.stack

COLUMNS = ["account_id", "side", "currency", "product", "partner_id", "line", "amount", "value_date", "reference"]
MINE = "CREATE TABLE mine ENGINE = MergeTree ORDER BY (partner_id, value_date) AS SELECT * FROM postings WHERE "


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = world(tmp_path_factory.mktemp("drawn"), seed=11, records=800)
    with running.client("default", database=running.config.database) as client:
        client.execute(MINE + "startsWith(account_id, 'p1:') OR startsWith(account_id, 'p1/')")
    running.add("p1", limits=Limits(queries_per_hour=0))
    yield running
    running.server.stop()


class Drawn:
    """Statements over a table T. Some of their expressions fail on rows of the partner p2."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def expression(self) -> str:
        c = self._random.choice(COLUMNS)
        return self._random.choice(
            [
                *(c, f"toString({c})", f"length(toString({c}))", f"cityHash64({c}) % 7", f"ignore({c})"),
                *("throwIf(startsWith(account_id, 'p2:'))", "intDiv(1, not startsWith(account_id, 'p2:'))"),
                f"{c} IN (SELECT {c} FROM T WHERE line = 0)",
            ]
        )

    def statement(self) -> str:
        e = self.expression
        source = self._random.choice(
            ["T", "T AS t", "(SELECT * FROM T WHERE line < 5) AS t", "(SELECT * FROM T ORDER BY offset) AS t"]
        )
        where = self._random.choice(["", f" WHERE isNotNull({e()})", f" WHERE toString({e()}) != 'zz' AND line >= 0"])
        body = f"FROM {source}{where}"
        return self._random.choice(
            [
                f"SELECT count(), uniqExact({e()}), sum(amount), max({e()}) {body}",
                f"SELECT {e()} AS g, count(), sum(amount) {body} GROUP BY g ORDER BY toString(g), 2",
                f"SELECT {e()} AS g, count() {body} GROUP BY g WITH ROLLUP ORDER BY toString(g), 2",
                f"SELECT DISTINCT {e()} AS g {body} ORDER BY toString(g)",
                f"SELECT g, m FROM (SELECT {e()} AS g, sum(amount) OVER (PARTITION BY currency) AS m {body}) "
                "ORDER BY toString(g), m LIMIT 50",
                f"SELECT count(), sum(a.amount) FROM T AS a JOIN (SELECT {e()} AS z, offset, line, partition FROM T) AS b "
                "ON a.offset = b.offset AND a.line = b.line AND a.partition = b.partition",
                f"SELECT toString({e()}) AS g {body} UNION DISTINCT SELECT toString({e()}) FROM T ORDER BY g",
            ]
        )


def answer(client: Client, text: str, table: str) -> Any:
    try:
        return client.execute(re.sub(r"\bT\b", table, text))
    except ServerException as error:
        return error.code


@pytest.mark.parametrize("seed", range(4))
def test_the_ledger_is_to_a_reader_as_if_there_were_nobody_else(ledger: World, seed: int) -> None:
    drawn, answered = Drawn(seed), 0
    with (
        ledger.client("default", database=ledger.config.database) as anybody,
        ledger.client("p1_reader") as reader,
    ):
        for _ in range(50):
            text = drawn.statement()
            must = answer(anybody, text, "mine")
            assert answer(reader, text, "postings") == must, text
            answered += isinstance(must, list)
    assert answered > 40
