"""`publish` with a broker that misbehaves: whatever ends a run, what was read goes and the report adds up."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clearline import cli
from clearline import publish as publishing
from clearline.publish import Run
from schemas.errors import BadInputError, PartUnavailableError
from tests.unit.test_cli import GOOD

BAD = {**GOOD, "amount": 0}


class Broker:
    """Takes commands and acknowledges them when it is polled; `lost_from`: those from there on time out."""

    def __init__(self, lost_from: int = 10**9, interrupted_at: int = -1) -> None:
        self.published = self.acknowledged = self.failed = 0
        self._lost_from, self._interrupted_at = lost_from, interrupted_at
        self._queue: list[Callable[[], None]] = []

    def publish(self, command: Any, on_delivery: Any) -> None:
        if self.published == self._interrupted_at:
            raise KeyboardInterrupt
        number = self.published
        self.published += 1

        def deliver() -> None:
            if number >= self._lost_from:
                self.failed += 1
                on_delivery(SimpleNamespace(str=lambda: "timed out"), None)
            else:
                self.acknowledged += 1
                on_delivery(None, SimpleNamespace(partition=lambda: 0, offset=lambda: number))

        self._queue.append(deliver)
        if len(self._queue) > 50:
            self.poll()

    def poll(self, _timeout_s: float = 0.0) -> None:
        queue, self._queue = self._queue, []
        for deliver in queue:
            deliver()


def system(broker: Broker) -> Any:
    return SimpleNamespace(
        kafka=SimpleNamespace(bootstrap="k:1"), codec=SimpleNamespace(encode=lambda _c: b"x"), message_bytes_max=100,
        publisher=lambda: broker,
    )  # fmt: skip


def lines(path: Path, *documents: Any) -> str:
    path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    return str(path)


def many(path: Path, count: int, bad: int = -1) -> str:
    return lines(path, *(BAD if i == bad else {**GOOD, "idempotency_key": f"k{i}"} for i in range(1, count + 1)))


def run_of(file: str, broker: Broker, **more: Any) -> Run:
    return Run(file, date(2026, 11, 22), lambda: system(broker), **more)


def test_when_refused_lines_cannot_be_kept_what_was_read_goes_and_the_rest_is_counted(tmp_path):
    file = many(tmp_path / "h.jsonl", 400, bad=200)
    (tmp_path / "h.refused.jsonl").mkdir()
    broker = Broker()
    run = run_of(file, broker)
    with pytest.raises(BadInputError, match="refused lines cannot be written to"):
        run.run()
    r = run.report
    assert (r.published, r.acknowledged, r.refused, r.not_sent) == (199, 199, 1, 200)
    assert broker.acknowledged == 199
    assert r.to_dict()["complete"] is False


def test_a_read_error_in_mid_file_takes_nothing_back(tmp_path, monkeypatch):
    whole = publishing._numbered

    def broken(file: Any, name: str) -> Any:
        for number, text in whole(file, name):
            if number == 7:
                raise BadInputError(f"{name} cannot be read after line 6: input/output error")
            yield number, text

    monkeypatch.setattr(publishing, "_numbered", broken)
    run = run_of(many(tmp_path / "h.jsonl", 10), Broker())
    with pytest.raises(BadInputError, match="after line 6"):
        run.run()
    assert (run.report.acknowledged, run.report.not_sent) == (6, None)


def test_a_broker_that_goes_away_ends_the_run_and_the_report_adds_up(tmp_path):
    run = run_of(many(tmp_path / "h.jsonl", 1_000), Broker(lost_from=100))
    with pytest.raises(PartUnavailableError, match="not acknowledged, the first at line 101"):
        run.run()
    r = run.report
    assert r.acknowledged == 100
    assert 0 < r.not_acknowledged < 200, "it does not try a thousand lines that nobody takes"
    assert r.published + (r.not_sent or 0) == 1_000


def test_ctrl_c_leaves_the_report_in_json_and_on_the_screen(tmp_path, monkeypatch, capsys):
    file = many(tmp_path / "h.jsonl", 400, bad=3)
    monkeypatch.setattr("clearline.commands.publish.live", lambda: system(Broker(interrupted_at=250)))
    assert cli.main(["publish", file, "--json"]) == 130
    told = json.loads(capsys.readouterr().out)
    assert (told["error"], told["exit_code"], told["lines"]) == ("interrupted", 130, 252)
    assert (told["acknowledged"], told["not_acknowledged"], told["refused"]) == (250, 1, 1)
    assert told["not_sent"] == 148
    assert Path(told["refused_file"]).read_text().count("\n") == 1
    monkeypatch.setattr("clearline.commands.publish.live", lambda: system(Broker(interrupted_at=250)))
    assert cli.main(["publish", file]) == 130
    shown = capsys.readouterr()
    assert "251 published, 250 of them acknowledged, 1 not acknowledged, 1 refused, 148 not sent" in shown.out
    assert "error: interrupted" in shown.err


def test_a_run_that_sent_nothing_leaves_the_refused_lines_of_the_former_one(tmp_path):
    file = many(tmp_path / "h.jsonl", 3, bad=1)
    former = tmp_path / "h.refused.jsonl"
    former.write_text("of the former run\n")

    def down() -> Any:
        raise PartUnavailableError("Kafka", "k:1")

    run = Run(file, date(2026, 11, 22), down)
    with pytest.raises(PartUnavailableError):
        run.run()
    assert former.read_text() == "of the former run\n"
    assert run.report.not_sent == 2
    run_of(file, Broker()).run()
    assert former.read_text().count('"line": 1') == 1
    run_of(many(tmp_path / "h.jsonl", 3), Broker()).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.jsonl"], "a clean run leaves no file"


def test_a_run_that_could_not_begin_is_told_in_json_with_all_lines_not_sent(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path / "data"))
    file = many(tmp_path / "h.jsonl", 5)
    assert cli.main(["publish", file, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["not_sent"], told["published"], told["exit_code"]) == (5, 0, 3)
    assert cli.main(["publish", file]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no stack is running" in shown.err


def test_rejections_are_outcomes_unless_the_caller_says_otherwise(tmp_path, monkeypatch):
    file = many(tmp_path / "h.jsonl", 3)

    def rejected(self: Run) -> Any:
        assert self.wait
        self.report.lines = self.report.published = self.report.acknowledged = 3
        self.report.outcomes["rejected"] = 3
        self.report.complete = True
        return self.report

    monkeypatch.setattr(Run, "run", rejected)
    assert cli.main(["publish", file, "--wait"]) == 0
    assert cli.main(["publish", file, "--fail-on-rejected"]) == 1
