"""Settings: where they come from, which win, and that a mistake is one clear sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearline import config
from clearline.config import (
    ClickHouseSettings,
    KafkaSettings,
    Settings,
    SettlementSettings,
    load_settings,
    settings_env,
)
from schemas.errors import BadInputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No settings but those of the test."""
    for variable in [v for v in os.environ if v.startswith(config.ENV_PREFIX)]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def test_without_anything_every_part_is_embedded():
    settings = load_settings()
    assert (settings.kafka.bootstrap, settings.registry.url, settings.clickhouse.host, settings.redis.url) == (
        None,
    ) * 4
    assert settings.partitions == 4
    assert settings.workers == 2


def test_worlds_are_apart():
    live, sandbox = load_settings(), load_settings(world="sandbox")
    assert live.data_dir != sandbox.data_dir
    assert live.clickhouse.database == "clearline_live"
    assert sandbox.clickhouse.database == "clearline_sandbox"


def test_data_and_downloads_are_where_the_system_wants_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    settings = load_settings()
    assert settings.data_dir == tmp_path / "d" / "clearline" / "live"
    assert settings.cache_dir == tmp_path / "c" / "clearline"
    assert not settings.cache_dir.is_relative_to(ROOT)


def test_arguments_win_over_environment_and_environment_over_the_file(monkeypatch, tmp_path):
    (tmp_path / "clearline.toml").write_text("workers = 3\npartitions = 8\n[kafka]\nbootstrap = 'a:1'\n")
    monkeypatch.setenv("CLEARLINE_WORKERS", "5")
    monkeypatch.setenv("CLEARLINE_KAFKA__BOOTSTRAP", "b:2,c:3")
    settings = load_settings(partitions=16)
    assert (settings.workers, settings.partitions, settings.kafka.bootstrap) == (5, 16, "b:2,c:3")


def test_a_named_file_is_read(monkeypatch, tmp_path):
    (tmp_path / "x.toml").write_text("[settlement]\ngather_ms = 9\n[kafka.client]\n'sasl.username' = 'me'\n")
    monkeypatch.setenv("CLEARLINE_CONFIG", str(tmp_path / "x.toml"))
    settings = load_settings()
    assert settings.settlement.gather_ms == 9
    assert settings.kafka.client == {"sasl.username": "me"}


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("CLEARLINE_PARTITIONS", "none", "setting partitions (CLEARLINE_PARTITIONS) is 'none': "),
        ("CLEARLINE_PARTITIONS", "0", "setting partitions (CLEARLINE_PARTITIONS) is '0': "),
        ("CLEARLINE_WORLD", "A B", "setting world (CLEARLINE_WORLD) is 'A B': must be a short lower-case name"),
        ("CLEARLINE_KAFKA__BOOTSTRAP", "kafka", "(CLEARLINE_KAFKA__BOOTSTRAP) is 'kafka': must be host:port"),
        ("CLEARLINE_KAFKA__BOOTSTRAP", "a:1,b:99999", "'b:99999' is not"),
        ("CLEARLINE_KAFKA__BOOTSTRP", "a:1", "did you mean CLEARLINE_KAFKA__BOOTSTRAP? docs/settings.md has the names"),
        ("CLEARLINE_KAFKA_BOOTSTRAP", "a:1", "is not a setting: did you mean CLEARLINE_KAFKA__BOOTSTRAP?"),
        (
            "clearline_worlds",
            "x",
            "clearline_worlds in the environment is not a setting: did you mean CLEARLINE_WORLD?",
        ),
        ("CLEARLINE_X", "x", "CLEARLINE_X in the environment is not a setting: docs/settings.md has the names"),
        ("CLEARLINE_KAFKA__CLIENT", "{oops", "a setting cannot be read"),
        ("CLEARLINE_REGISTRY__URL", "localhost", "must be a URL that starts with http://"),
        ("CLEARLINE_PORTS__KAFKA", "70000", "(CLEARLINE_PORTS__KAFKA) is '70000'"),
        ("CLEARLINE_CLICKHOUSE__DATABASE", "a-b; DROP", "setting clickhouse.database"),
        ("CLEARLINE_CONFIG", "/no/such/file.toml", "the settings file /no/such/file.toml"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_setting(monkeypatch, variable, value, sentence):
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInputError) as caught:
        load_settings()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_name_in_the_file_is_named(tmp_path):
    (tmp_path / "clearline.toml").write_text("[kafka]\nbootstrp = 'a:1'\n")
    with pytest.raises(BadInputError, match=r"setting kafka\.bootstrp is not known"):
        load_settings()


def test_names_that_are_ours_but_no_settings_are_let_through(monkeypatch):
    """Every CLEARLINE_ name that the repository reads from the environment or hands to a process."""
    for name in ("READY_FILE", "SLOT", "FAILPOINTS", "FAULT_SEED", "SEED", "DEBUG", "TEST_KILLS", "TEST_SEED"):
        monkeypatch.setenv(config.ENV_PREFIX + name, "1")
    monkeypatch.setenv("CLEARLINE_KAFKA", '{"heap_mb": 300}')
    assert load_settings().kafka.heap_mb == 300


def test_a_file_that_is_not_toml_is_named(tmp_path):
    (tmp_path / "clearline.toml").write_text("workers = = 3")
    with pytest.raises(BadInputError, match=r"clearline\.toml is not TOML"):
        load_settings()


def test_mistakes_in_secrets_do_not_show_them(monkeypatch):
    monkeypatch.setenv("CLEARLINE_REDIS__URL", "secret@host")
    with pytest.raises(BadInputError) as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_secrets_are_not_in_the_settings_text(monkeypatch):
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__PASSWORD", "hush-1")
    monkeypatch.setenv("CLEARLINE_REDIS__URL", "redis://:hush-2@h:1/0")
    monkeypatch.setenv("CLEARLINE_KAFKA__CLIENT", '{"sasl.password": "hush-3"}')
    assert "hush" not in repr(load_settings())


@given(
    partitions=st.integers(1, 1000),
    bootstrap=st.none() | st.just("[::1]:9092,b.example:1"),
    client=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
    password=st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), max_size=10),
    watchdog_s=st.floats(0.5, 300),
)
def test_a_child_process_gets_exactly_these_settings(partitions, bootstrap, client, password, watchdog_s):
    given_settings = Settings(
        partitions=partitions,
        kafka=KafkaSettings(bootstrap=bootstrap, client=client),
        clickhouse=ClickHouseSettings(password=password),
        settlement=SettlementSettings(watchdog_s=watchdog_s),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings_env(given_settings).items():
            patch.setenv(name, value)
        assert load_settings() == given_settings


def test_importing_reads_no_settings():
    code = "import os; os.environ['CLEARLINE_PARTITIONS'] = 'bad'; import clearline.config, clearline.stack"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_page_of_settings_has_every_setting_and_no_other():
    variables = set()
    for name, field in Settings.model_fields.items():
        section = getattr(field.annotation, "model_fields", None)
        paths = [f"{name}__{inner}" for inner in section] if section else [name]
        variables |= {config.ENV_PREFIX + path.upper() for path in paths}
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(CLEARLINE_\w+)`", page, re.M)) == variables
