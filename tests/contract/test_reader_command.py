"""`clearline reader` on an embedded ClickHouse: what it writes lets exactly that partner in, at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from clearline.cli import main
from clearline.config import Settings, load_settings
from clearline.connection import clickhouse_config
from clearline.stack import Stack
from sinks import migrate
from sinks.clickhouse import Database
from sinks.ledger_sink import LedgerSink
from tests.contract.test_sinks_clickhouse import arrivals
from tests.journals import Maker, local_codec
from tests.sink_child import TOPIC, feed

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    asked = load_settings(data_dir=tmp_path_factory.mktemp("stack"))
    with Stack(asked, parts=("clickhouse",)) as stack:
        stack.start()
        running = stack.resolved()
        config = clickhouse_config(running)
        migrate.apply(config)
        feed(LedgerSink(config, TOPIC, local_codec()), arrivals(Maker(3).lines(400)), 400)
        db = Database(config)
        db.run(
            "INSERT INTO control_changes (command, subject_id, booked_at, run) "
            "SELECT 'AdmitPartner', 'p1', now64(3), max(run) FROM outcomes"  # as the sink in office
        )
        db.close()
        yield running


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("CLEARLINE_WORLD", settings.world)


def command(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def rows(settings: Settings, made: dict[str, Any]) -> list[tuple[Any, ...]]:
    client = Client("127.0.0.1", made["port"], user=made["reader"], password=made["password"])
    try:
        found: list[tuple[Any, ...]] = client.execute("SELECT DISTINCT splitByChar(':', account_id)[1] FROM postings")
    finally:
        client.disconnect()
    return found


def test_a_reader_is_made_used_made_anew_and_removed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    made = command(capsys, "reader", "add", "p1", "--tree", "--queries", "5")
    assert made["reader"] == "p1_reader"
    assert {"postings", "pending", "outcomes", "control_changes", "calls", "limit_rows"} == set(made["tables"])
    assert rows(settings, made) == [("p1",)]
    file = settings.data_dir / "clickhouse" / "clearline-readers.json"
    assert file.stat().st_mode & 0o077 == 0
    assert made["password"] not in file.read_text()
    again = command(capsys, "reader", "add", "p1")
    assert again["password"] != made["password"]
    assert rows(settings, again) == [("p1",)]
    with pytest.raises(ServerException) as caught:
        rows(settings, made)
    assert caught.value.code == 516
    assert command(capsys, "reader", "list") == {"readers": ["p1_reader"]}
    assert command(capsys, "reader", "remove", "p1_reader") == {"removed": "p1_reader"}
    with pytest.raises(ServerException):
        rows(settings, again)
    assert command(capsys, "reader", "list") == {"readers": []}


def test_show_prints_the_sql_of_a_server_and_changes_nothing(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    said = command(capsys, "reader", "show", "p1", "--tree")["statements"]
    assert any("CREATE ROW POLICY" in text and "startsWith(account_id, 'p1/')" in text for text in said)
    assert any("readonly = 1, max_execution_time = 30 MIN 1 MAX 60 CHANGEABLE_IN_READONLY" in text for text in said)
    assert command(capsys, "reader", "list") == {"readers": []}
    assert main(["reader", "show", "p1"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(";")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "nobody"), "there is no partner nobody"),
        (("add", "bank"), "the bank has clearline_reader"),
        (("add", "p1' OR 1"), "is no partner's path"),
        (("add", "p1", "--name", "default"), "cannot be a reader's name"),
        (("add", "p1", "--name", "a`b"), "cannot be a reader's name"),
        (("remove", "nobody_reader"), "there is no reader nobody_reader"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    settings: Settings, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    answer = command(capsys, "reader", *words, code=2)
    assert said in answer["error"]
