"""What is sealed opens only under its key, at its place and unchanged; the data folder's key is made once."""

from __future__ import annotations

import base64
import secrets
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearline.config import load_settings
from clearline.vault import KEY_FILE, Vault, decode_key, vault_of, with_master_key
from schemas.errors import BadInputError

KEY = bytes(range(32))


@given(st.binary(max_size=200), st.text(max_size=50))
def test_what_is_sealed_opens_and_is_not_seen(plain: bytes, place: str) -> None:
    vault = Vault(KEY)
    sealed = vault.seal(plain, place)
    assert Vault(KEY).open(sealed, place) == plain
    assert sealed != vault.seal(plain, place)
    assert len(plain) < 4 or plain not in sealed


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    sealed = bytearray(Vault(KEY).seal(b"whsec_abc", "w:1"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadInputError, match="cannot be opened"):
        Vault(KEY).open(bytes(sealed), "w:1")


def test_another_place_another_key_and_a_stump_do_not_open() -> None:
    sealed = Vault(KEY).seal(b"whsec_abc", "w:1")
    for vault, text, place in (
        (Vault(KEY), sealed, "w:2"), (Vault(KEY[::-1]), sealed, "w:1"), (Vault(KEY), sealed[:20], "w:1"), (Vault(KEY), b"", "w:1"),
    ):  # fmt: skip
        with pytest.raises(BadInputError, match="cannot be opened"):
            vault.open(text, place)


def test_the_data_folders_key_is_made_once_and_is_the_owners(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(with_master_key(settings).gateway.master_key)) for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(decode_key(found[0])) == 32
    assert [p.name for p in tmp_path.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert found[0] not in repr(with_master_key(settings))


def test_a_key_in_the_settings_counts(tmp_path: Path) -> None:
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    settings = load_settings(data_dir=tmp_path, gateway={"master_key": key})
    assert with_master_key(settings) == settings
    assert list(tmp_path.iterdir()) == []
    assert vault_of(settings).open(vault_of(settings).seal(b"x", "p"), "p") == b"x"


def test_a_wrong_key_is_named_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="set CLEARLINE_GATEWAY__MASTER_KEY"):
        vault_of(load_settings(data_dir=tmp_path))
    with pytest.raises(BadInputError) as refused:
        load_settings(data_dir=tmp_path, gateway={"master_key": "canary-of-a-key"})
    assert "master_key" in str(refused.value)
    assert "canary" not in str(refused.value)
