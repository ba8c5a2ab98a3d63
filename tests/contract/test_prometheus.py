"""Rules, dashboards and the scrape configuration: Prometheus' own tool reads them, and every name in them is on the list."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearline.metrics import ROLE_PORTS
from clearline.status.incidents import CODES
from streams.metric_names import Name, sample_names
from tests.contract import metric_page

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
RULES = [
    rule
    for file in ("alerts.yml", "recording.yml")
    for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [r for r in RULES if "alert" in r]
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
BY_SAMPLE = {sample: n for n in Name for sample in (*sample_names(n), str(n))}
OF_TARGETS = {"job", "instance", "role", "le"}


def promtool(*args: str) -> str:
    """What it says. Skips where there is none."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    done = subprocess.run([tool, *args], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> list[tuple[str, str]]:
    """Every expression of rules and dashboards, and where it stands."""
    found = [(r.get("alert") or r["record"], r["expr"]) for r in RULES]
    for board in BOARDS:
        document = json.loads(board.read_text())
        asked = [t["expr"] for p in document["panels"] for t in p["targets"]]
        found += [(board.name, e) for e in (*asked, *(a["expr"] for a in document["annotations"]["list"]))]
    return found


def test_promtool_takes_the_configuration_and_the_rules():
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml", "recording.yml")


def test_alerts_fire_when_they_are_to_and_at_no_other_time():
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_tried_both_ways():
    tried = [
        a for t in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"] for a in t["alert_rule_test"]
    ]
    for alert in (a["alert"] for a in ALERTS):
        of_it = [bool(t["exp_alerts"]) for t in tried if t["alertname"] == alert]
        assert set(of_it) == {True, False}, alert


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_and_label_that_is_named_is_on_the_list(where: str, expression: str):
    records = {r["record"] for r in RULES if "record" in r}
    assert set(re.findall(r"clearline:[a-z0-9_:]+", expression)) <= records
    for name, matchers in re.findall(r"\b(clearline_[a-z0-9_]+)(?:\{([^}]*)\})?", expression):
        assert name in BY_SAMPLE, f"{where}: {name}"
        given = set(re.findall(r"(\w+)\s*=~?\"", matchers or ""))
        assert given <= {*BY_SAMPLE[name].labels, *OF_TARGETS}, f"{where}: {name}{{{matchers}}}"
    asked = {label.strip() for by in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in by.split(",")}
    served = {x for name in re.findall(r"\bclearline_[a-z0-9_]+", expression) for x in BY_SAMPLE[name].labels}
    assert asked <= served | OF_TARGETS, where


def test_each_incident_of_status_has_an_alert_and_each_alert_its_section_of_the_runbook():
    assert {a["labels"]["incident"] for a in ALERTS} == set(CODES)
    page = (ROOT / "docs" / "OPERATING.md").read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.*)$", page)
    }
    anchors |= set(re.findall(r"<a (?:id|name)=\"([a-z-]+)\"", page))
    for a in ALERTS:
        code = a["labels"]["incident"]
        assert a["labels"]["severity"] in ("critical", "warning")
        assert a["annotations"]["runbook"] == f"docs/OPERATING.md#{code.replace('_', '-')}"
        assert code.replace("_", "-") in anchors, code
        assert a["annotations"]["summary"].endswith("."), a["alert"]


def test_prometheus_scrapes_every_role_of_the_composed_system_where_it_listens():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    expected = {}
    for name, service in services.items():
        role, _, slot = name.rpartition("-") if name.rpartition("-")[2].isdigit() else (name, "", "0")
        if role in ROLE_PORTS:
            port = int(service["environment"]["CLEARLINE_METRICS__PORT"])
            expected[name] = f"{name}:{port + ROLE_PORTS[role] + int(slot)}"
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    told: dict[str, Any] = {c["labels"]["role"]: c["targets"] for c in job["static_configs"]}
    assert told == {role: [target] for role, target in expected.items()}
    assert set(ROLE_PORTS) == {re.sub(r"-\d+$", "", r) for r in told}
    assert job["honor_labels"] is True


def test_ports_of_roles_do_not_meet():
    taken = [ROLE_PORTS[r] + n for r in ROLE_PORTS for n in range(64 if r in ("worker", "gateway", "webhooks") else 1)]
    assert len(taken) == len(set(taken))
    assert max(taken) <= 255


def test_dashboards_are_provisioned_with_the_source_that_they_ask():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/clearline.yml").read_text())["datasources"]
    assert len(BOARDS) == 4
    for board in BOARDS:
        document = json.loads(board.read_text())
        assert document["uid"] == f"clearline-{board.stem}"
        panels = document["panels"]
        assert len({p["id"] for p in panels}) == len(panels)
        assert {p["datasource"]["uid"] for p in panels} == {source["uid"]}
        for p in panels:
            at = p["gridPos"]
            assert at["x"] + at["w"] <= 24


def test_the_page_has_the_list_and_nothing_of_it_is_unused():
    text = metric_page.PAGE.read_text(encoding="utf-8")
    assert text == metric_page.page(text), "write it anew: python -m tests.contract.metric_page"
