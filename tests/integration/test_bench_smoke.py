"""The benchmarks of pipeline, gateway, ledger and reconciliation run and say what they promise; how fast it was here says nothing and is not looked at.

Those that start brokers and roles of their own (136 s of processor together) run with `./run test --long`, or by
`python -m benchmarks.pipeline --quick`, and so on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clearline.stack import CHECKOUT


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_the_pipeline_benchmark_measures_what_it_promises(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.pipeline", "--quick", "--json", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "copy,backlog,latency"], cwd=CHECKOUT, capture_output=True, text=True, timeout=1_140
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


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_gateway_benchmark_measures_what_it_promises(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.gateway", "--quick", "--json", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    lines = {line["part"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {"single", "batch", "check"}

    (single,), (beside,) = lines["single"]["rates"], lines["single"]["noop"]
    assert single["statuses"] == {"201": 90}
    assert single["outcomes"] == {"settled": 90}
    assert beside["statuses"] == {"200": 90}
    (batch,) = lines["batch"]["rates"]
    assert batch["statuses"] == {"200": 10}
    assert batch["outcomes"] == {"settled": 100}
    for found in (single, beside, batch):
        assert found["missing"] == 0
        assert found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
        assert found["client_us_per_request"] > 0

    check = lines["check"]
    assert check["answered"]["distinct"] == check["journal"]["settled"] == 190
    assert check["one_outcome_each"]
    assert check["tied_out"]


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_ledger_benchmark_measures_what_it_promises(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.ledger", "--quick", "--json", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    lines = {line["part"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {"sink", "reports: 40,000 postings", "reports: 80,000 postings", "reports: growth"}

    sink = lines["sink"]
    assert sink["records"] == 5_000 + 1_036, "the backlog, and partners, accounts and opening balances"
    assert sink["rows"] > 3 * 5_000
    assert min(sink["settled_per_second"], sink["sink_rows_per_second"], sink["engine_rows_per_second"]) > 0
    assert len(sink["of_settlement_each"]) == len(sink["of_engine_each"]) == sink["rounds"] == 1

    asked = ("balance as of a day", "statement of a month", "trial balance of a closed day",
             "totals of a partner's tree by day")  # fmt: skip
    for size in (40_000, 80_000):
        figures = lines[f"reports: {size:,} postings"]
        assert figures["postings"] == size
        assert figures["bytes_per_posting"] > sum(figures["bytes_of_projections"].values()) > 0
        for name in asked:
            assert 0 < figures[name]["p50_ms"] <= figures[name]["max_ms"]
            assert figures[name]["rows_max"] > 0
            assert lines["reports: growth"][name][str(size)] == figures[name]


@pytest.mark.stack
def test_the_reconciliation_benchmark_measures_what_it_promises(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.recon", "--lines", "2000", "--only", "camt", "--json"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, timeout=480
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert (found["lines"], found["postings"], found["part"]) == (1_940, 2_000, "camt")
    assert found["matches"]["exact"] == 1_800
    assert found["breaks"] == {"amount_differs": 10, "missing_in_statement": 30}
    assert 0 < found["import_s"] + found["run_s"] <= found["total_s"] + 0.02


@pytest.mark.parametrize("benchmark", ["pipeline", "gateway", "ledger"])
def test_a_part_that_does_not_exist_is_refused(benchmark: str):
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--only", "speed"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=480)
    assert done.returncode == 2
    assert "speed is not a part of this benchmark" in done.stderr
