"""docker-compose.yml keeps its promises: what each service has, and that everything it names is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearline import preparing
from clearline.config import Settings, load_settings, variables
from clearline.embedded.clickhouse.policy import FINANCE_CAPS
from clearline.metrics import metrics_address
from clearline.stack import role_names
from schemas.errors import BadInputError
from sinks.finance.changeable import FREE_SETTINGS
from streams import access

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ONE_SHOT = {"prepare-kafka", "prepare"}
BY_HAND = {"operator"}  # runs when somebody asks it
BROKERS = {"kafka-1", "kafka-2", "kafka-3"}
FRONT = {"gateway-0", "webhooks-0", "grafana"}
OPEN = {"gateway-0", "grafana"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(value: Any, given: Mapping[str, str]) -> Any:
    """A value of the file with variables put in, as docker-compose does it."""
    if isinstance(value, dict):
        return {k: filled(v, given) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, given) for v in value]
    return _VARIABLE.sub(lambda m: given[m[1]], value).replace("$$", "$") if isinstance(value, str) else value


@pytest.fixture(scope="module")
def text() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


@pytest.fixture(scope="module")
def services(text: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = filled(text["services"], example())
    return found


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("CLEARLINE_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def settings_of(service: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for variable, value in service["environment"].items():
        if variable.startswith("CLEARLINE_"):
            monkeypatch.setenv(variable, value)
    return load_settings()


def roles(services: Mapping[str, Any]) -> dict[str, Any]:
    return {name: s for name, s in services.items() if "build" in s}


def test_it_has_every_part_and_every_role(services):
    parts = {"registry", "keeper", "clickhouse", "clickhouse-2", "redis", "prometheus", "grafana"}
    wanted = BROKERS | parts | set(role_names(Settings(workers=2)))
    assert wanted | ONE_SHOT | BY_HAND == set(services)


def test_every_image_is_pinned_to_a_version(services):
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), f"{name} uses {service['image']}"


def test_every_service_has_a_health_check_limits_a_restart_and_bounded_logs(services):
    for name, service in services.items():
        ends = name in ONE_SHOT | BY_HAND
        assert ends or service["healthcheck"]["test"], name
        assert ends or service["healthcheck"]["start_period"], name
        assert service["restart"] == (
            "no" if name in BY_HAND else "on-failure" if name in ONE_SHOT else "unless-stopped"
        )
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert 0 < service["cpus"] <= 4, name
        assert service["pids_limit"], name
        assert service["logging"]["options"]["max-size"] == "10m", name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_all_roles_are_one_image_without_rights(services):
    found = roles(services)
    assert set(found) == set(role_names(Settings(workers=2))) | ONE_SHOT | BY_HAND
    assert {service["image"] for service in found.values()} == {"clearline:0.1.0"}
    assert all(s["read_only"] and s["cap_drop"] == ["ALL"] and s["tmpfs"] for s in found.values())
    for name in ("redis", "prometheus", "grafana"):
        assert services[name]["read_only"], name
        assert services[name]["cap_drop"] == ["ALL"], name
    assert services["redis"]["user"] == "redis", "its command is a shell, for which the image stays root"


def test_nothing_of_the_back_end_is_open_and_the_front_is_on_loopback_only(text, services):
    assert text["networks"]["back"]["internal"] is True
    for name, service in services.items():
        assert set(service["networks"]) == ({"back", "front"} if name in FRONT else {"back"}), name
        assert bool(service.get("ports")) == (name in OPEN), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_what_is_mounted_is_there_and_volumes_are_declared(text, services):
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name} mounts {source}"
                assert volume.endswith(":ro"), f"{name}: {volume}"
            else:
                assert source in text["volumes"], f"{name}: {source}"
    kept = [v.split(":")[0] for n in BROKERS for v in services[n]["volumes"]]
    assert len(kept) == len(set(kept)), "brokers share no folder"


def test_every_setting_of_a_role_is_a_setting_and_each_has_the_principal_of_its_role(services, clean):
    for name, service in roles(services).items():
        given = {n for n in service["environment"] if n.startswith("CLEARLINE_")}
        assert given - {"CLEARLINE_READY_FILE"} <= variables(), name
        settings = settings_of(service, clean)
        assert settings.workers == sum(n.startswith("worker-") for n in services)
        assert settings.kafka.bootstrap == ",".join(f"{b}:9092" for b in sorted(BROKERS))
        assert settings.kafka.replication == len(BROKERS)
        world, _, role = settings.kafka.username.rpartition(".")
        if name == "prepare-kafka":
            assert settings.kafka.username == access.SUPER_USER
        else:
            wanted = {"gateway-0": "console", "prepare": "operator"}.get(name, re.sub(r"-\d+$", "", name))
            assert (world, role) == (settings.world, wanted)
            assert role in access.ROLES


def test_status_the_page_and_prometheus_know_every_role_where_it_serves(services, clean):
    wanted = set(role_names(Settings(workers=2)))
    targets = set(re.findall(r'targets: \["([^"]+)"\]', (ROOT / "deploy/prometheus/prometheus.yml").read_text()))
    for name in ("operator", "gateway-0", "tieout"):
        settings = settings_of(services[name], clean)
        assert set(settings.status.roles) == wanted, name
        for role, url in settings.status.roles.items():
            kind, _, slot = role.rpartition("-") if role[-1].isdecimal() else (role, "", "0")
            assert url == f"http://{role}:{metrics_address(settings, kind, int(slot)).port}"
        assert {url.removeprefix("http://") for url in settings.status.roles.values()} == targets


def test_prepare_gives_each_principal_the_password_that_its_role_logs_in_with(services, clean):
    environment = services["prepare-kafka"]["environment"]
    settings = settings_of(services["prepare-kafka"], clean)
    given = preparing.passwords(settings, environment)
    for name, service in roles(services).items():
        if name != "prepare-kafka":
            e = service["environment"]
            assert given[e["CLEARLINE_KAFKA__USERNAME"]] == e["CLEARLINE_KAFKA__PASSWORD"], name
    jaas = services["registry"]["environment"]["REGISTRY_KAFKA_COMMON_SASL_JAAS_CONFIG"]
    user, password = re.findall(r'(?:username|password)="([^"]+)"', jaas)
    assert given[user] == password


def test_no_secret_has_a_default_and_the_example_names_every_variable():
    used = _VARIABLE.findall(COMPOSE.read_text())
    assert {name for name, _, _ in used} == set(example())
    assert all(kind == "?" for _, kind, _ in used), "a variable that is missing stops the start"


def test_the_secrets_of_the_example_are_refused_outside_of_a_sandbox(services, clean):
    assert all(
        value.startswith(preparing.TRIAL) for name, value in example().items() if re.search(r"PASSWORD|SECRET", name)
    )
    for name in ("prepare-kafka", "prepare", "gateway-0"):
        environment = services[name]["environment"]
        settings = settings_of(services[name], clean)
        preparing.refuse_trial_secrets(settings, environment)  # a sandbox
        live = settings.model_copy(update={"world": "live"})
        with pytest.raises(BadInputError, match="which everybody knows"):
            preparing.refuse_trial_secrets(live, environment)
    for name in [n for n in os.environ if n.startswith("CLEARLINE_")]:
        clean.delenv(name)
    key = Settings().gateway.model_copy(update={"master_key": example()["MASTER_KEY"]})
    with pytest.raises(BadInputError, match="MASTER_KEY"):
        preparing.refuse_trial_secrets(Settings(gateway=key), {})


def test_the_script_makes_secrets_that_are_taken(clean, text):
    done = subprocess.run(["sh", ROOT / "deploy" / "make-env.sh", "live"], capture_output=True, text=True, check=True)
    made = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert made.keys() == example().keys()
    secrets = [v for k, v in made.items() if k not in ("WORLD", "PUBLIC_URL", "KAFKA_CLUSTER_ID")]
    assert len(set(secrets)) == len(secrets)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", s) for s in secrets), "32 bytes that need no quotes anywhere"
    assert re.fullmatch(r"[A-Za-z0-9]{22}", made["KAFKA_CLUSTER_ID"])
    for name, service in roles(filled(text["services"], made)).items():
        settings = settings_of(service, clean)
        preparing.refuse_trial_secrets(settings, service["environment"])
        assert settings.world == "live", name


def test_the_brokers_agree_in_everything_but_who_they_are(services):
    found = [dict(services[name]["environment"]) for name in sorted(BROKERS)]
    for n, environment in enumerate(found, 1):
        assert environment.pop("KAFKA_NODE_ID") == str(n)
        assert environment.pop("KAFKA_ADVERTISED_LISTENERS") == f"CLIENTS://kafka-{n}:9092,INTERNAL://kafka-{n}:9094"
    assert found[0] == found[1] == found[2]
    e = found[0]
    assert e["KAFKA_CONTROLLER_QUORUM_VOTERS"] == ",".join(f"{n}@kafka-{n}:9093" for n in (1, 2, 3))
    assert (e["KAFKA_MIN_INSYNC_REPLICAS"], e["KAFKA_DEFAULT_REPLICATION_FACTOR"]) == ("2", "3")
    assert e["KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND"] == "false"
    assert e["KAFKA_SUPER_USERS"] == f"User:broker;User:{access.SUPER_USER}"
    assert not any("PLAINTEXT" in x and "SASL_" not in x for x in e["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))


def test_the_order_of_starting(services):
    for name in roles(services):
        if name in ONE_SHOT | BY_HAND:
            continue
        needs = services[name]["depends_on"]
        assert needs["prepare"]["condition"] == "service_completed_successfully", name
        assert needs["registry"]["condition"] == "service_healthy", name
    assert services["registry"]["depends_on"]["prepare-kafka"]["condition"] == "service_completed_successfully"
    assert set(services["prepare-kafka"]["depends_on"]) >= BROKERS


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


def test_the_cluster_of_the_settings_is_that_of_the_servers(services, clean):
    """Servers, Keeper, macros, secret and storage of the mounted files are those that compose starts and settings name."""
    house = settings_of(services["worker-0"], clean).clickhouse
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
    backups = ET.parse(ROOT / "deploy" / "clickhouse" / "backups.xml").getroot()
    disk = backups.findtext("backups/allowed_disk")
    place = backups.findtext(f"storage_configuration/disks/{disk}/path")
    for name in servers:
        environment, volumes = services[name]["environment"], services[name]["volumes"]
        assert environment["CLICKHOUSE_REPLICA"] == name
        wanted = {e.attrib["from_env"] for e in config.iter() if "from_env" in e.attrib}
        assert wanted <= set(environment)
        inside = [v.split(":")[1] for v in volumes]
        assert {str(cold).rstrip("/"), str(place).rstrip("/")} <= set(inside)
        assert services[name]["depends_on"]["keeper"]["condition"] == "service_healthy"
        assert services["worker-0"]["depends_on"][name]["condition"] == "service_healthy"
    shared = {"clickhouse-backups"}
    own = [v.split(":")[0] for name in servers for v in services[name]["volumes"] if not v.startswith("./")]
    alone = [v for v in own if v not in shared]
    assert len(alone) == len(set(alone)), "replicas share no folder but that of backups"


def test_docker_compose_takes_it():
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed; the other tests here have read the file")
    command = [tool, "-f", str(COMPOSE), "--env-file", str(ROOT / ".env.example"), "config"]
    done = subprocess.run([*command, "-q"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run([*command, "--services"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(shown.stdout.split()) == set(yaml.safe_load(COMPOSE.read_text())["services"])


def test_without_secrets_docker_compose_refuses(tmp_path):
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed; the other tests here have read the file")
    nothing = tmp_path / "empty.env"
    nothing.write_text("")
    command = [tool, "-f", str(COMPOSE), "--env-file", str(nothing), "config", "-q"]
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=bare)
    assert done.returncode != 0
    assert "Missing mandatory value" in done.stderr


def overlay(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The services with docker-compose.tls.yml on top: keys of environments and mounted paths are added or replaced."""
    given = {**example(), "CERTIFICATES": "/run/certificates"}
    over = filled(yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text())["services"], given)
    assert set(over) <= set(services)
    return {
        name: {**service, **over.get(name, {}), "environment": {
            **service.get("environment", {}), **over.get(name, {}).get("environment", {}),
        }}
        for name, service in services.items()
    }  # fmt: skip


def test_with_tls_nothing_of_ours_speaks_plainly(services, clean):
    secured = overlay(services)
    for name, service in roles(secured).items():
        settings = settings_of(service, clean)
        assert settings.kafka.security_protocol == "SASL_SSL", name
        assert settings.clickhouse.secure, name
        assert str(settings.redis.url).startswith("rediss://"), name
        mounted = {v.split(":")[1] for v in service["volumes"]}
        files = settings.kafka.ca_file, settings.clickhouse.ca_file, service["environment"]["SSL_CERT_FILE"]
        assert {str(f) for f in files} <= mounted, name
    tls = ET.parse(ROOT / "deploy" / "clickhouse" / "tls.xml").getroot()
    assert tls.findtext("tcp_port_secure") == secured["worker-0"]["environment"]["CLEARLINE_CLICKHOUSE__PORT"]
    inside = {v.split(":")[1] for v in secured["clickhouse"]["volumes"]}
    assert {tls.findtext(f"openSSL/server/{f}") for f in ("certificateFile", "privateKeyFile", "caConfig")} <= inside
    for name in BROKERS:
        e = secured[name]["environment"]
        assert "PLAINTEXT" not in e["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"], name
        lines = (ROOT / secured[name]["env_file"][0]).read_text().splitlines()
        given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        kept = {v.split(":")[1] for v in secured[name]["volumes"]}
        assert {given["KAFKA_SSL_KEYSTORE_LOCATION"], given["KAFKA_SSL_TRUSTSTORE_LOCATION"]} <= kept


def test_docker_compose_takes_it_with_tls(tmp_path):
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed; the other tests here have read the file")
    env = tmp_path / "tls.env"
    env.write_text((ROOT / ".env.example").read_text() + "CERTIFICATES=/run/certificates\n")
    files = ["-f", "docker-compose.yml", "-f", "docker-compose.tls.yml"]
    done = subprocess.run(
        [tool, *files, "--env-file", str(env), "config", "-q"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
