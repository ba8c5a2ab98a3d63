"""The pipeline benchmark runs and says what it promises; how fast it was here says nothing and is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clearline.stack import CHECKOUT


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_the_pipeline_benchmark_measures_what_it_promises(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.pipeline", "--quick", "--json", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "copy,backlog,latency"], cwd=CHECKOUT, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    lines = {line["part"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {"copy", "backlog: one worker", "rebuild: remembered keys", "rebuild: accounts", "latency"}

    backlog = lines["backlog: one worker"]
    assert backlog["outcomes"]["settled"] == 20_000 + 16, "the backlog, and the opening balances of 16 partners"
    assert backlog["of_copy"] > 0
    assert set(backlog["stage_us"]) == {"decode", "identify", "look_up", "settle", "encode", "produce", "state"}
    assert lines["rebuild: remembered keys"]["keys"] == backlog["commands"]
    assert lines["rebuild: accounts"]["accounts"] > 1_500

    (rate,) = lines["latency"]["rates"]
    assert rate["settlement"]["missing"] == rate["copy"]["missing"] == 0
    assert rate["settlement"]["p50_ms"] <= rate["settlement"]["p99_ms"] <= rate["settlement"]["max_ms"]

    for line in lines.values():
        assert {"cpu", "cores", "memory_gb", "python", "libraries", "load_average_before", "commit", "seed"} <= set(
            line["machine"]
        )
    kept = (tmp_path / "pipeline.jsonl").read_text().splitlines()
    assert len(kept) == len(lines), "every line is kept in the results as well"


def test_a_part_that_does_not_exist_is_refused():
    command = [sys.executable, "-m", "benchmarks.pipeline", "--only", "copy,speed"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "speed is not a part of this benchmark" in done.stderr
