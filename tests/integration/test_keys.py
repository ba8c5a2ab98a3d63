"""`clearline key` against a real broker: what staff makes and ends is what every gateway reads; the stack's master key."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from clearline import cli, keys
from clearline.config import Settings, settings_env
from clearline.signing import new_key_pair
from clearline.vault import KEY_FILE, decode_key, vault_of
from schemas.identity import murmur2
from schemas.records import AccessKey, Subscription
from streams.table import Table
from tests.integration.conftest import World
from tests.sink_servers import wait_for


@pytest.fixture
def running(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A world with a worker, and an environment in which the command line finds it."""
    stores = {"CLEARLINE_CLICKHOUSE__HOST": "127.0.0.1", "CLEARLINE_REDIS__URL": "redis://127.0.0.1:1/0"}
    unused = {"CLEARLINE_CLICKHOUSE__PORT": "1", "CLEARLINE_CLICKHOUSE__HTTP_PORT": "1"}
    for name, value in {**settings_env(world.settings), **stores, **unused}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    world.start()
    return world


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """One command with --json; its document."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_staff_makes_lists_rotates_and_revokes_keys(
    running: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(capsys, "partner", "admit", "acme", "--name", "Acme")
    public = tmp_path / "acme.pem"
    public.write_text(new_key_pair()[1])
    with Table(running.kafka, running.topics.access, running.codec) as gateway:

        def row(key_id: str) -> AccessKey:
            found = gateway.get(keys.row_key(key_id))
            assert isinstance(found, AccessKey)
            return found

        create = ("key", "create", "acme", "--scope", "read", "--scope", "keys", "--by", "lin", "--note", "till")
        tried = run(capsys, *create, "--public-key", str(public), "--dry-run")
        assert (tried["token"], tried["dry_run"]) == (None, True)
        assert run(capsys, "key", "list") == {"keys": []}
        made = run(capsys, *create, "--public-key", str(public), "--expires-days", "30")
        key_id = made["key"]["key_id"]
        wait_for("the gateway's copy", lambda: gateway.get(keys.row_key(key_id)))
        token = keys.read_token(made["token"])
        assert token is not None
        assert token.world == "live"
        assert keys.matches(row(key_id), token.secret)
        assert (row(key_id).scopes, row(key_id).requested_by, row(key_id).note) == ("keys read", "bank:lin", "till")
        assert row(key_id).public_key == keys.read_public_key(public.read_text())

        rotated = run(capsys, "key", "rotate", key_id, "--overlap-hours", "1")
        new_id = rotated["key"]["key_id"]
        assert (rotated["key"]["scopes"], rotated["key"]["replaces"]) == (["keys", "read"], key_id)
        wait_for("the old key's end", lambda: row(key_id).expires_at - row(new_id).created_at <= 3_600_000)
        assert {k["key_id"]: k["state"] for k in run(capsys, "key", "list", "--below", "acme")["keys"]} == {
            key_id: "active", new_id: "active",
        }  # fmt: skip

        assert run(capsys, "key", "revoke", key_id, "--note", "lost", "--dry-run")["changed"] is True
        assert not row(key_id).revoked_at
        assert run(capsys, "key", "revoke", key_id, "--note", "lost")["key"]["state"] == "revoked"
        assert run(capsys, "key", "revoke", key_id)["changed"] is False
        wait_for("the revocation", lambda: row(key_id).revoked_at)
        assert row(key_id).note.endswith("; lost")
        assert [k["key_id"] for k in run(capsys, "key", "list")["keys"]] == [new_id]
        assert len(run(capsys, "key", "list", "--all")["keys"]) == 2
        told = run(capsys, "key", "rotate", key_id, code=2)["error"]
        assert "not taken any more" in told

    for arguments, words in (
        (("create", "nobody"), "there is no partner nobody"),
        (("create", "Acme"), "no partner's path"),
        (("create", "acme", "--scope", "write"), "is no scope"),
        (("create", "acme", "--signature", "required"), "public_key: is missing"),
        (("create", "acme", "--public-key", "zz"), "must be an Ed25519 key"),
        (("create", "acme", "--thumbprint", "zz"), "64 hexadecimal digits"),
        (("revoke", "z" * 16), "there is no key"),
    ):
        assert words in run(capsys, "key", *arguments, code=2)["error"]
    assert cli.main(["key", "create", "acme", "--scope", "all"]) == 0
    said = capsys.readouterr().out
    assert "shown only now" in said
    assert "webhooks" in said


def test_a_stack_makes_its_master_key_and_hands_it_to_the_roles(broker: Settings) -> None:
    file = broker.data_dir / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert broker.gateway.master_key == file.read_text()
    assert len(decode_key(broker.gateway.master_key)) == 32
    assert settings_env(broker)["CLEARLINE_GATEWAY__MASTER_KEY"] == broker.gateway.master_key
    assert vault_of(broker).open(vault_of(broker).seal(b"x", "p"), "p") == b"x"


def test_a_row_that_does_not_decode_lets_nobody_in_and_stops_nothing(running: World) -> None:
    """Whatever gets into the topic of keys: the table goes on, and a key whose last row says nothing is none."""
    kafka, topic = running.kafka, running.topics.access
    with Table(kafka, topic, running.codec) as gateway:
        gateway.put("k:first", Subscription("first", *_SUBSCRIPTION))
        producer = Producer(kafka.producer())
        partition = (murmur2(b"k:first") & 0x7FFFFFFF) % 4
        for poison in (b"", b"\0", b"garbage", b"\0\x7f\xff\xff\xff\x00", gateway_bytes(running)[:-1]):
            producer.produce(topic, poison, b"k:first", partition)
            assert producer.flush(10) == 0
            wait_for("the row that says nothing", lambda: gateway.unreadable)
            assert gateway.get("k:first") is None
            gateway.put("k:first", Subscription("again", *_SUBSCRIPTION))
            assert (gateway.get("k:first"), gateway.unreadable, gateway.following) == (
                Subscription("again", *_SUBSCRIPTION), {}, True,
            )  # fmt: skip
        producer.produce(topic, b"garbage", b"k:first", partition)
        assert producer.flush(10) == 0
    with Table(kafka, topic, running.codec) as started:  # and nobody who starts then is stopped by it
        assert (started.get("k:first"), list(started.unreadable)) == (None, ["k:first"])


_SUBSCRIPTION = ("acme", "https://a.example/", "", "new", (), (), 1, 0, 1, "", "test")


def gateway_bytes(running: World) -> bytes:
    """A row as it is in the topic."""
    return running.codec.encode(Subscription("first", *_SUBSCRIPTION))
