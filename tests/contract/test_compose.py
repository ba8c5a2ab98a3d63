"""docker-compose.yml and Dockerfile keep their promises: pinned images, health checks, one image for all roles."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearline.config import Settings
from clearline.embedded.clickhouse.policy import FINANCE_CAPS
from clearline.stack import role_names
from sinks.finance.changeable import FREE_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ONE_SHOT = {"prepare"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_it_has_every_part_and_every_role(services):
    assert {
        "kafka",
        "registry",
        "keeper",
        "clickhouse",
        "clickhouse-2",
        "redis",
        *role_names(Settings(workers=2)),
    } <= set(services)


def test_every_image_is_pinned_to_a_version(services):
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"\d+\.\d+", tag), f"{name} uses {service['image']}"


def test_every_long_running_service_has_a_health_check(services):
    for name, service in services.items():
        assert name in ONE_SHOT or service["healthcheck"]["test"], name


def test_all_roles_are_one_image_without_rights(services):
    roles = [service for service in services.values() if "build" in service]
    assert len(roles) == len(role_names(Settings(workers=2))) + len(ONE_SHOT)
    assert {service["image"] for service in roles} == {"clearline:0.1.0"}
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in roles)


def test_ports_are_open_on_loopback_only(services):
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_the_settings_of_the_roles_are_settings_that_exist(services, monkeypatch):
    for variable, value in services["worker-0"]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    settings = Settings()
    assert settings.kafka.bootstrap == "kafka:9092"
    assert settings.clickhouse.password == "clearline"
    assert settings.workers == sum(name.startswith("worker-") for name in services)


def test_the_reader_of_the_settings_is_a_user_who_may_only_read(services):
    users = ET.parse(ROOT / "deploy" / "clickhouse-reader.xml").getroot()
    reader = users.find(f"users/{Settings().clickhouse.reader_user}")
    assert reader is not None
    profile = users.find(f"profiles/{reader.findtext('profile')}")
    assert profile is not None
    assert profile.findtext("readonly") == "1"
    changeable = {
        entry.tag for entry in profile.findall("constraints/*") if entry.find("changeable_in_readonly") is not None
    }
    assert changeable == {*FREE_SETTINGS, *FINANCE_CAPS}
    assert profile.findtext("constraints/max_execution_time/max") == f"{FINANCE_CAPS['max_execution_time'].most:g}"
    password = reader.find("password")
    assert password is not None
    variable = password.attrib["from_env"]
    given, used = services["clickhouse"]["environment"], services["worker-0"]["environment"]
    assert given[variable] == used["CLEARLINE_CLICKHOUSE__READER_PASSWORD"]
    mounted = [v.split(":")[0] for v in services["clickhouse"]["volumes"] if v.startswith("./")]
    assert all((ROOT / m).is_file() for m in mounted)


def test_the_cluster_of_the_settings_is_that_of_the_servers(services, monkeypatch):
    """Servers, Keeper, macros, secret and storage of the mounted files are those that compose starts and settings name."""
    for variable, value in services["worker-0"]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    house = Settings().clickhouse
    config = ET.parse(ROOT / "deploy" / "clickhouse" / "cluster.xml").getroot()
    servers = [s for s in services if s.startswith("clickhouse")]
    shard = config.findall(f"remote_servers/{house.cluster}/shard")
    assert [[r.findtext("host") for r in s.findall("replica")] for s in shard] == [servers]
    assert {r.findtext("port") for r in config.iter("replica") if r.find("port") is not None} == {str(house.port)}
    assert config.findtext("zookeeper/node/host") in services
    keeper = ET.parse(ROOT / "deploy" / "clickhouse" / "keeper.xml").getroot()
    assert config.findtext("zookeeper/node/port") == keeper.findtext("keeper_server/tcp_port")
    assert keeper.findtext("keeper_server/raft_configuration/server/hostname") in services
    policy = config.find(f"storage_configuration/policies/{house.storage_policy}/volumes")
    assert policy is not None
    assert [v.tag for v in policy] == ["default", house.cold_volume], "the first is that of the server's own policy"
    assert policy.findtext("default/disk") == "default"
    cold = config.findtext(f"storage_configuration/disks/{policy.findtext(f'{house.cold_volume}/disk')}/path")
    for name in servers:
        environment, volumes = services[name]["environment"], services[name]["volumes"]
        assert environment["CLICKHOUSE_REPLICA"] == name
        wanted = {e.attrib["from_env"] for e in config.iter() if "from_env" in e.attrib}
        assert wanted <= set(environment)
        assert str(cold).rstrip("/") in [v.split(":")[1] for v in volumes]
        mounted = [v.split(":")[0] for v in volumes if v.startswith("./")]
        assert all((ROOT / m).is_file() for m in mounted)
        assert "./deploy/clickhouse/cluster.xml" in mounted
        assert services[name]["depends_on"]["keeper"]["condition"] == "service_healthy"
        assert services["worker-0"]["depends_on"][name]["condition"] == "service_healthy"
    own = [v.split(":")[0] for name in servers for v in services[name]["volumes"] if not v.startswith("./")]
    assert len(own) == len(set(own)), "replicas share no folder"


def test_the_image_runs_as_nobody_and_from_pins():
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+\.\d+", text, re.M)
    assert re.search(r"^USER 10001$", text, re.M)
    assert text.count("--require-hashes") == 2


def test_docker_compose_takes_it():
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed; the other tests here have read the file")
    done = subprocess.run([tool, "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
