"""Who may do what on the brokers: the table as data, and the settings that say who we are to them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clearline import cli, redaction
from clearline.access_users import passwords_in
from clearline.config import load_settings, settings_env
from clearline.connection import kafka_config
from clearline.roles import ROLES as RUNNING_ROLES
from schemas.errors import BadInputError
from streams.access import ALL, READER_GROUPS, ROLES, Grant, Rule, _compare, rules, table, topic_of
from streams.topics import Topics

TOPICS = Topics("live")
HUSH = "hush-a-very-long-secret"


def may(operation: str, resource: str, name: str) -> set[str]:
    return {
        role for role in ROLES for r in rules(TOPICS, role)
        if (r.operation, r.resource) == (operation, resource)
        and (name == r.name if r.pattern == "literal" else name.startswith(r.name))
    }  # fmt: skip


def test_every_role_that_runs_has_its_rules() -> None:
    assert set(RUNNING_ROLES) <= set(ROLES)


def test_every_topic_is_in_the_table() -> None:
    assert {topic_of(TOPICS, t) for t in ALL} >= set(TOPICS.settings())


def test_who_may_write_what() -> None:
    """Written down a second time, by hand: what it would mean to get wrong."""
    assert may("write", "topic", "live.journal") == {"worker"}
    assert may("write", "topic", "live.ledger.state") == {"worker"}
    assert may("write", "topic", "live.transactions.dead") == {"worker"}
    assert may("write", "topic", "live.replies") == {"worker"}
    assert may("write", "topic", "live.seals") == {"sealer"}
    assert may("write", "topic", "live.access") == {"gateway", "console", "operator"}
    assert may("write", "topic", "live.triage") == {"triage", "console"}
    assert may("write", "topic", "live.transactions.submitted") == {
        "worker", "gateway", "console", "publisher", "operator", "triage", "replay",
    }  # fmt: skip
    assert may("read", "group", "live.settlement") == {"worker"}
    assert may("write", "transactional_id", "live.settlement-0-1") == {"worker"}
    assert may("write", "transactional_id", "live.sealer") == {"sealer"}


def test_nobody_may_change_topics_or_reach_another_world() -> None:
    registry = ROLES["registry"].more
    for grant in table(TOPICS):
        if grant.rule in registry and grant.principal == "User:live.registry":
            continue
        assert grant.rule.operation in ("read", "write", "describe", "describe_configs"), grant
        assert grant.principal.startswith("User:live.")
        assert grant.permission == "allow"
        assert grant.rule.name.startswith("live.") or grant.rule == Rule("group", READER_GROUPS, "prefixed", "describe")


def test_an_auditor_changes_nothing() -> None:
    assert not {r.operation for r in rules(TOPICS, "auditor")} & {"write"}


def test_a_principal_may_have_another_name_and_a_role_several() -> None:
    named = table(TOPICS, {"publisher": ["live.shop", "CN=branch,O=bank"]})
    who = {g.principal for g in named}
    assert {"User:live.shop", "User:CN=branch,O=bank"} <= who
    assert "User:live.publisher" not in who
    with pytest.raises(BadInputError, match="cashier has no place"):
        table(TOPICS, {"cashier": ["x"]})


def test_what_is_missing_and_too_much_is_told_apart() -> None:
    wanted = table(TOPICS)
    lost = next(iter(sorted(wanted)))
    sink = Grant("User:live.sink-redis", Rule("topic", "live.journal", "literal", "write"))
    former = Grant("User:live.former", Rule("topic", "other", "literal", "read"))
    stranger = Grant("User:eve", Rule("topic", "li", "prefixed", "read"))
    anybody = Grant("User:*", Rule("topic", "*", "literal", "read"))
    elsewhere = Grant("User:sandbox.worker", Rule("topic", "sandbox.journal", "literal", "write"))
    cluster = Grant("User:eve", Rule("broker", "kafka-cluster", "literal", "alter"))
    found = _compare(TOPICS, wanted, (wanted - {lost}) | {sink, former, stranger, anybody, elsewhere, cluster})
    assert found.missing == (lost,)
    assert set(found.surplus) == {sink, former}
    assert set(found.foreign) == {stranger, anybody}
    assert not found.equal
    assert _compare(TOPICS, wanted, wanted | {elsewhere}).equal


def test_the_table_is_shown_without_a_broker(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["access", "show", "--role", "sealer", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["roles"]
    assert row["principals"] == ["live.sealer"]
    assert {"resource": "topic", "name": "live.seals", "pattern": "literal", "operation": "write"} in row["rules"]
    assert cli.main(["access", "show", "--role", "cashier"]) == 2


# ---- settings ----------------------------------------------------------------------------------------------------------

SASL = {"SECURITY_PROTOCOL": "SASL_SSL", "USERNAME": "live.worker", "BOOTSTRAP": "k:9092"}


def given(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"CLEARLINE_KAFKA__{name}", str(value))


def test_a_password_in_a_file_reaches_every_client_and_no_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{HUSH}\n")
    given(monkeypatch, **SASL, PASSWORD_FILE=tmp_path / "password", CA_FILE=tmp_path / "ca.pem")
    settings = load_settings()
    kafka = kafka_config(settings)
    for made in (kafka.base(), kafka.consumer("g"), kafka.producer()):
        assert made["security.protocol"] == "SASL_SSL"
        assert made["sasl.mechanism"] == "SCRAM-SHA-512"
        assert (made["sasl.username"], made["sasl.password"]) == ("live.worker", HUSH)
        assert made["ssl.ca.location"] == str(tmp_path / "ca.pem")
    assert HUSH not in f"{settings_env(settings)}{settings!r}{kafka!r}"
    assert HUSH in redaction.secrets_of(settings)
    monkeypatch.setattr(os, "environ", {**settings_env(settings)})
    assert load_settings() == settings


def test_a_certificate_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch, BOOTSTRAP="k:1", SECURITY_PROTOCOL="SSL", CERTIFICATE_FILE="/c.pem", KEY_FILE="/k.pem",
        KEY_PASSWORD=HUSH,
    )  # fmt: skip
    made = kafka_config(load_settings()).base()
    assert made["security.protocol"] == "SSL"
    assert made["ssl.certificate.location"] == "/c.pem"
    assert made["ssl.key.location"] == "/k.pem"
    assert made["ssl.key.password"] == HUSH
    assert not any(k.startswith("sasl") for k in made)


def test_without_security_clients_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, BOOTSTRAP="k:1", CLIENT='{"socket.timeout.ms": "5"}')
    made = kafka_config(load_settings()).base()
    assert not any(k.startswith(("ssl", "sasl", "security")) for k in made)
    assert made["socket.timeout.ms"] == "5"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({**SASL}, "with SASL_SSL a username and a password or password_file are needed"),
        ({"BOOTSTRAP": "k:1", "USERNAME": "me"}, "username and password are for SASL_SSL and SASL_PLAINTEXT"),
        ({"BOOTSTRAP": "k:1", "CA_FILE": "/x"}, "are for SSL and SASL_SSL: set security_protocol"),
        ({"SECURITY_PROTOCOL": "SSL"}, "the embedded broker speaks PLAINTEXT only: set bootstrap"),
        ({"BOOTSTRAP": "k:1", "SECURITY_PROTOCOL": "SSL", "KEY_FILE": "/x"}, "belong together"),
        ({**SASL, "PASSWORD": HUSH, "PASSWORD_FILE": "/x"}, "give a password or its file, not both"),
        ({"SECURITY_PROTOCOL": "TLS"}, "(CLEARLINE_KAFKA__SECURITY_PROTOCOL) is 'TLS'"),
    ],
)
def test_what_has_no_effect_is_refused_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], sentence: str
) -> None:
    given(monkeypatch, **values)
    with pytest.raises(BadInputError) as caught:
        load_settings()
    assert sentence in str(caught.value)
    assert HUSH not in str(caught.value)


def test_a_secret_file_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, **SASL, PASSWORD_FILE=tmp_path / "none")
    with pytest.raises(BadInputError, match="CLEARLINE_KAFKA__PASSWORD_FILE"):
        kafka_config(load_settings())
    (tmp_path / "none").write_text("\n")
    with pytest.raises(BadInputError, match="is empty"):
        kafka_config(load_settings())


def test_passwords_of_roles_stand_in_a_folder(tmp_path: Path) -> None:
    settings = load_settings(kafka={"principals": {"publisher": ["live.shop", "live.branch"]}})
    with pytest.raises(BadInputError, match="has no file kafka-ROLE"):
        passwords_in(settings, tmp_path)
    (tmp_path / "kafka-worker").write_text("one\n")
    (tmp_path / "kafka-live.shop").write_text("two\n")
    assert passwords_in(settings, tmp_path) == {"live.worker": "one", "live.shop": "two"}
