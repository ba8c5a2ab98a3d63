"""The brokers' settings of docker-compose.yml, as the tests read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kafka_cluster import TLS, Cluster, compose_environment, env_file, properties_of, property_of


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("KAFKA_NODE_ID", "node.id"),
        ("KAFKA_LISTENER_NAME_CLIENTS_SCRAM___SHA___512_SASL_JAAS_CONFIG", "listener.name.clients.scram-sha-512.sasl.jaas.config"),
        ("KAFKA_A__B", "a_b"),
    ],
)  # fmt: skip
def test_a_variable_is_the_setting_that_the_image_makes_of_it(variable: str, name: str) -> None:
    assert property_of(variable) == name


def test_the_brokers_of_the_compose_file_keep_what_they_acknowledged() -> None:
    for n in (1, 2, 3):
        found = properties_of(compose_environment(f"kafka-{n}", {}))
        assert found["node.id"] == str(n)
        assert found["min.insync.replicas"] == found["transaction.state.log.min.isr"] == "2"
        factors = ("default", "offsets.topic", "transaction.state.log")
        assert {found[f"{x}.replication.factor"] for x in factors} == {"3"}
        assert found["unclean.leader.election.enable"] == "false"
        assert found["allow.everyone.if.no.acl.found"] == "false"
        assert set(found["super.users"].split(";")) == {"User:broker", "User:prepare"}
        assert "StandardAuthorizer" in found["authorizer.class.name"]
        assert "PLAINTEXT:PLAINTEXT" not in found["listener.security.protocol.map"]
        watchdog_s = float(compose_environment("worker-0", {})["CLEARLINE_SETTLEMENT__WATCHDOG_S"])
        assert watchdog_s * 1000 > float(found["broker.session.timeout.ms"]), "a worker waits for the next leader"
    assert compose_environment("worker-0", {})["CLEARLINE_KAFKA__REPLICATION"] == "3"


def test_with_tls_nothing_goes_in_the_clear() -> None:
    found = properties_of({**compose_environment("kafka-1", {}), **env_file(TLS)})
    protocols = [x.split(":")[1] for x in found["listener.security.protocol.map"].split(",")]
    assert protocols
    assert all(x in ("SASL_SSL", "SSL") for x in protocols)
    assert found["listener.name.mtls.ssl.client.auth"] == "required"


def test_a_broker_here_differs_from_production_by_its_addresses_only(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3)
    production = properties_of(compose_environment("kafka-2", {}))
    here = cluster.properties(2)
    assert here.keys() == production.keys()
    differ = {k for k in here if here[k] != production[k] and "jaas" not in k}
    assert differ == {"advertised.listeners", "controller.quorum.voters", "listeners", "log.dirs"}
    assert "kafka-" not in here["advertised.listeners"] + here["controller.quorum.voters"]
