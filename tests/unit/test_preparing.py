"""`clearline prepare` as far as it can be told without servers: the statements, and what it refuses."""

from __future__ import annotations

import pytest

from clearline import preparing
from clearline.config import Settings
from schemas.errors import BadInputError
from sinks import users
from sinks.clickhouse import ClickHouseConfig
from streams import access


def test_passwords_come_by_the_name_of_the_role():
    environment = {
        "KAFKA_PASSWORD_SINK_REDIS": "a",
        "KAFKA_PASSWORD_WORKER": "b",
        "KAFKA_PASSWORD_SEALER": "",
        "X": "c",
    }
    assert preparing.passwords(Settings(world="live"), environment) == {"live.sink-redis": "a", "live.worker": "b"}


def test_a_role_with_several_principals_has_one_password_for_all():
    kafka = Settings().kafka.model_copy(update={"principals": {"publisher": ["live.shop", "live.branch"]}})
    found = preparing.passwords(Settings(kafka=kafka), {"KAFKA_PASSWORD_PUBLISHER": "a"})
    assert found == {"live.shop": "a", "live.branch": "a"}


def test_a_password_of_no_role_is_refused():
    with pytest.raises(BadInputError, match=r"KAFKA_PASSWORD_WORKERS names no role; roles are worker, .*"):
        preparing.passwords(Settings(), {"KAFKA_PASSWORD_WORKERS": "a"})


def test_every_role_of_the_table_can_be_given_one():
    environment = {f"KAFKA_PASSWORD_{role.upper().replace('-', '_')}": role for role in access.ROLES}
    assert sorted(preparing.passwords(Settings(), environment).values()) == sorted(access.ROLES)


def test_an_unknown_part_is_refused():
    with pytest.raises(BadInputError, match="databases is nothing that is prepared; that is topics, access"):
        preparing.plan(Settings(), {}, ["databases"])


def test_the_password_of_a_user_goes_to_clickhouse_as_a_hash():
    config = ClickHouseConfig("clickhouse", 9000, "clearline_live", reader_password="secret-r", cluster="clearline")
    wanted = users.house_users(config, "clearline_data", "secret-d")
    assert [u.name for u in wanted] == ["clearline_reader", "clearline_data"]
    for user in wanted:
        said = users.statements(config, user)
        assert not any("secret" in s for s in said)
        assert all("ON CLUSTER 'clearline'" in s for s in said), said
    reader, data = (" ".join(users.statements(config, u)) for u in wanted)
    assert "readonly = 1" in reader
    assert "GRANT ON CLUSTER 'clearline' SELECT ON clearline_live.* TO `clearline_reader`" in reader
    assert "INSERT" in data
    assert "clearline_live.*" not in data, "it writes beside the ledger, never in it"


def test_without_a_data_user_there_is_only_the_reader():
    assert [u.name for u in users.house_users(ClickHouseConfig("h", 9000, "d"))] == ["clearline_reader"]
