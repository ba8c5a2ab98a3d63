"""Every setting in one place, checked before anything starts.

Values come, strongest first, from the environment (`CLEARLINE_KAFKA__BOOTSTRAP=...`), from a TOML file
(`clearline.toml` in the working directory, or the file named by `CLEARLINE_CONFIG`), and from the defaults
here. An address that is not set means: run that part embedded, on this machine.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from schemas.errors import BadInputError

ENV_PREFIX = "CLEARLINE_"
CONFIG_FILE_ENV = "CLEARLINE_CONFIG"
CONFIG_FILE_DEFAULT = "clearline.toml"
# Ours, but no settings: what the command line, the roles and the tests say to their own processes.
_OTHER_NAMES = frozenset(
    ENV_PREFIX + name
    for name in ("CONFIG", "DEBUG", "READY_FILE", "SLOT", "FAILPOINTS", "FAULT_SEED", "SEED", "API_KEY")
)
_OTHER_PREFIXES = (ENV_PREFIX + "TEST_", ENV_PREFIX + "KAFKA__CLIENT__")

_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})$")
_WORLD = re.compile(r"^[a-z][a-z0-9-]{0,30}$")


def _bootstrap(value: str) -> str:
    for address in value.split(","):
        found = _ADDRESS.match(address.strip())
        if found is None or not 0 < int(found[2]) < 65536:
            raise ValueError(f"must be host:port, or several with commas between; {address.strip()!r} is not")
    return value


def _url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.match(rf"^({'|'.join(schemes)})://[^/\s]", value):
            raise ValueError(f"must be a URL that starts with {' or '.join(s + '://' for s in schemes)}")
        return value.rstrip("/")

    return AfterValidator(check)


Port = Annotated[int, Field(ge=1, le=65535)]
FreePort = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    """`bootstrap` None: a broker is run here. Who we are to the brokers, and which authority theirs must be signed by:
    docs/access.md; secrets may stand in files, which are read when a client is made. `replication`: copies of each
    topic that is created. `principals`: by role, where they are not `<world>.<role>`. `client`: further librdkafka
    settings, which win over all of these."""

    bootstrap: Annotated[str, AfterValidator(_bootstrap)] | None = None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    username: str = ""
    password: str = Field(default="", repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: str = Field(default="", repr=False)
    key_password_file: Path | None = None
    replication: int = Field(default=1, ge=1, le=15)
    principals: dict[str, list[str]] = Field(default_factory=dict)
    client: dict[str, str] = Field(default_factory=dict, repr=False)
    heap_mb: int = Field(default=512, ge=256, le=65536)

    @field_validator("password_file", "ca_file", "certificate_file", "key_file", "key_password_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What is given must have an effect: a password that a plain connection never sends is a mistake."""
        sasl, tls = self.security_protocol.startswith("SASL_"), self.security_protocol.endswith("SSL")
        secret = bool(self.password or self.password_file)
        if sasl and not (self.username and secret):
            raise ValueError(f"with {self.security_protocol} a username and a password or password_file are needed")
        if not sasl and (self.username or secret):
            raise ValueError("username and password are for SASL_SSL and SASL_PLAINTEXT: set security_protocol")
        if self.security_protocol != "PLAINTEXT" and self.bootstrap is None:
            raise ValueError("the embedded broker speaks PLAINTEXT only: set bootstrap")
        if not tls and (self.ca_file or self.certificate_file or self.key_file):
            raise ValueError("ca_file, certificate_file and key_file are for SSL and SASL_SSL: set security_protocol")
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("certificate_file and key_file belong together")
        if (self.password and self.password_file) or (self.key_password and self.key_password_file):
            raise ValueError("give a password or its file, not both")
        return self


class RegistrySettings(_Section):
    """`url` None: Apicurio Registry is run here. A URL is the base of a Confluent-compatible API."""

    url: Annotated[str, _url("http", "https")] | None = None


class ClickHouseSettings(_Section):
    """`host` None: the development server over chDB is run here. `database` empty: `clearline_<world>`.

    `reader_user` may only read; reports and `clearline sql` run as it. `data_user` writes partners' own tables and
    nothing else; empty: `user` does. `secure`: TLS; `ca_file`: PEM file of who must have signed the server's
    certificate, None for those whom every browser believes. `cluster`, `storage_policy`, `cold_volume`,
    `cold_after_months`, `calls_keep_days`: for production, docs/clickhouse.md.
    """

    host: str | None = None
    port: Port = 9000
    http_port: Port = 8123
    user: str = "default"
    password: str = Field(default="", repr=False)
    reader_user: str = "clearline_reader"
    reader_password: str = Field(default="", repr=False)
    data_user: str = ""
    data_password: str = Field(default="", repr=False)
    secure: bool = False
    ca_file: Path | None = None
    database: str = Field(default="", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$|^$")
    cluster: str = Field(default="", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$|^$")
    storage_policy: str = Field(default="", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$|^$")
    cold_volume: str = Field(default="cold", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    cold_after_months: int = Field(default=0, ge=0, le=1200)
    calls_keep_days: int = Field(default=0, ge=0, le=36_600)


class RedisSettings(_Section):
    """`url` None: Valkey (or a redis-server found on the path) is run here."""

    url: Annotated[str, _url("redis", "rediss")] | None = Field(default=None, repr=False)


class SettlementSettings(_Section):
    """How the settlement host gathers, commits and gives up; `watchdog_s` ends a process that hangs."""

    gather_ms: int = Field(default=5, ge=0, le=1000)
    batch_records_max: int = Field(default=4000, ge=1, le=100_000)
    producers: int = Field(default=3, ge=1, le=8)
    session_timeout_ms: int = Field(default=6000, ge=1000, le=300_000)
    transaction_timeout_ms: int = Field(default=10_000, ge=1000, le=900_000)
    watchdog_s: float = Field(default=6.0, gt=0, le=300)
    idempotency_days: int = Field(default=30, ge=1, le=3660)
    message_bytes_max: int = Field(default=262_144, ge=1024, le=1_000_000)
    tick_ms: int = Field(default=1000, ge=50, le=3_600_000)

    @property
    def keys_window_ms(self) -> int:
        """For how long a key is remembered at least, in milliseconds of event time."""
        return self.idempotency_days * 86_400_000


class PortSettings(_Section):
    """Ports of the embedded parts; 0 takes a free one, which the data folder keeps for later starts."""

    kafka: FreePort = 0
    kafka_controller: FreePort = 0
    registry: FreePort = 0
    clickhouse: FreePort = 0
    clickhouse_http: FreePort = 0
    redis: FreePort = 0
    gateway: FreePort = 0


class GatewaySettings(_Section):
    """The HTTP way in (docs/gateway.md). Instance N listens on `ports.gateway` + N. `public_url` empty: the address it
    listens on. `master_key`: 32 bytes in base64url that encrypt webhook secrets at rest; empty: one is made and kept in
    the data folder. `certificate`, `key`: PEM files, TLS when given; `client_ca`: asks clients for certificates.
    `console`: the page for operators, `/operations`; a gateway that only partners reach needs none."""

    instances: int = Field(default=1, ge=1, le=64)
    host: str = "127.0.0.1"
    public_url: Annotated[str, _url("http", "https")] | None = None
    master_key: str = Field(default="", repr=False, pattern=r"^$|^[A-Za-z0-9_-]{43}=?$")
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    trusted_proxies: list[str] = Field(default_factory=list)
    wait_s_max: float = Field(default=30.0, gt=0, le=300)
    body_bytes_max: int = Field(default=262_144, ge=1024, le=10_000_000)
    rate_per_s: float = Field(default=1000.0, gt=0, le=1_000_000)
    burst: int = Field(default=5000, ge=1, le=10_000_000)
    calls_per_day: int = Field(default=50_000_000, ge=1, le=10**12)
    signature_age_s: int = Field(default=300, ge=1, le=3600)
    outcome_hours: int = Field(default=24, ge=1, le=720)
    reports_per_minute: int = Field(default=600, ge=1, le=1_000_000)
    report_s_max: int = Field(default=20, ge=1, le=600)
    report_rows_max: int = Field(default=200_000, ge=1, le=10_000_000)
    report_cache_mb: int = Field(default=64, ge=1, le=65_536)
    tables_max: int = Field(default=20, ge=1, le=10_000)
    table_rows_max: int = Field(default=200_000, ge=1, le=1_000_000)
    table_bytes_max: int = Field(default=20_000_000, ge=1024, le=100_000_000)
    console: bool = True


class WebhookSettings(_Section):
    """Notifications to partners (docs/webhooks.md). `instances`: workers, each with partitions of its own; stop all to
    change it. `private_targets`: also addresses of private networks and http, for development on one machine."""

    instances: int = Field(default=1, ge=1, le=64)
    private_targets: bool = False
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    first_retry_s: float = Field(default=5.0, gt=0, le=3600)
    give_up_days: float = Field(default=3.0, gt=0, le=30)
    concurrency: int = Field(default=64, ge=1, le=1024)


class TieOutSettings(_Section):
    """The role that compares journal, ClickHouse and Redis all the time (docs/finance.md). A round each `interval_s`;
    `behind_s`: how old the common place may be; `accounts_per_round`: balances that one round looks at, whether
    something touched them or not; `rows_again`: rows of ClickHouse that one round reads again of what it knows."""

    interval_s: float = Field(default=1.0, ge=0.1, le=60)
    behind_s: float = Field(default=5.0, ge=1, le=3600)
    accounts_per_round: int = Field(default=25_000, ge=1_000, le=10_000_000)
    rows_again: int = Field(default=200_000, ge=1_000, le=1_000_000_000)


class MetricsSettings(_Section):
    """Where every role serves /metrics, /healthz and /readyz: on `port` plus the role's own number (docs/metrics.md),
    or each on a free port when it is 0. `lag_s_max`: a role that is further behind is not ready."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535 - 255)
    lag_s_max: float = Field(default=30.0, gt=0, le=86_400)


class TraceSettings(_Section):
    """Traces by OpenTelemetry, the extra `traces` (docs/metrics.md). `endpoint`: base of a collector that takes OTLP
    over HTTP; None: off. `ratio`: the share of calls that are followed. `believe_callers`: a caller's `traceparent` is
    continued; else it is only linked to, because anybody may send one."""

    endpoint: Annotated[str, _url("http", "https")] | None = None
    ratio: float = Field(default=0.01, ge=0, le=1)
    believe_callers: bool = False


class StatusSettings(_Section):
    """`roles`: where /readyz and /metrics of each role are, for `clearline status` of a system whose roles run
    elsewhere, such as {"worker-0": "http://10.0.0.7:9100"}; those of the embedded stack are known."""

    roles: dict[str, Annotated[str, _url("http", "https")]] = Field(default_factory=dict)


class Settings(BaseSettings):
    """All settings. Build it with `load_settings`, which turns mistakes into one clear sentence."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    world: str = "live"
    data_dir: Path = Field(default_factory=lambda values: _data_home() / str(values.get("world", "live")))
    cache_dir: Path = Field(default_factory=lambda: _xdg("XDG_CACHE_HOME", ".cache") / "clearline")
    partitions: int = Field(default=4, ge=1, le=1000)  # as many as the seal of a day can name
    workers: int = Field(default=2, ge=1, le=64)
    projections_nice: int = Field(default=5, ge=0, le=19)
    maven_repository: Annotated[str, _url("http", "https", "file")] | None = None
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    redis: RedisSettings = RedisSettings()
    settlement: SettlementSettings = SettlementSettings()
    ports: PortSettings = PortSettings()
    metrics: MetricsSettings = MetricsSettings()
    gateway: GatewaySettings = GatewaySettings()
    webhooks: WebhookSettings = WebhookSettings()
    tieout: TieOutSettings = TieOutSettings()
    traces: TraceSettings = TraceSettings()
    status: StatusSettings = StatusSettings()

    @property
    def sandbox(self) -> bool:
        """Whether this world is for trying out: anybody may join, and magic amounts force outcomes."""
        return self.world.startswith("sandbox")

    @field_validator("world")
    @classmethod
    def _world_is_a_prefix(cls, value: str) -> str:
        if not _WORLD.match(value):
            raise ValueError("must be a short lower-case name such as live or sandbox")
        return value

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _database_of_the_world(self) -> Self:
        if not self.clickhouse.database:
            named = self.clickhouse.model_copy(update={"database": f"clearline_{self.world.replace('-', '_')}"})
            object.__setattr__(self, "clickhouse", named)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path | None:
    """The TOML file that is read, if any."""
    named = os.environ.get(CONFIG_FILE_ENV)
    if named:
        return Path(named)
    default = Path(CONFIG_FILE_DEFAULT)
    return default if default.is_file() else None


def load_settings(**overrides: Any) -> Settings:
    """Settings from overrides, environment and file.

    Raises BadInputError: one sentence that names the first mistake.
    """
    file = config_file()
    if file is not None and not file.exists():
        raise BadInputError(f"the settings file {file} (from {CONFIG_FILE_ENV}) does not exist")
    _check_names()
    try:
        return Settings(**overrides)
    except ValidationError as e:
        raise BadInputError(_sentence(e)) from None
    except tomllib.TOMLDecodeError as e:
        raise BadInputError(f"the settings file {file} is not TOML: {e}") from None
    except ValueError as e:  # pydantic-settings: a JSON value in the environment that does not parse
        raise BadInputError(f"a setting cannot be read: {e}") from None


def variables() -> set[str]:
    """The names of all settings as environment variables, sections included."""
    out = set()
    for name, field in Settings.model_fields.items():
        out.add(ENV_PREFIX + name.upper())
        section = getattr(field.annotation, "model_fields", {})
        out |= {f"{ENV_PREFIX}{name}__{inner}".upper() for inner in section}
    return out


def _check_names() -> None:
    """Raises BadInputError for a variable that looks like a setting and is none: it would have no effect."""
    known = variables()
    for given in sorted(os.environ):
        name = given.upper()
        if not name.startswith(ENV_PREFIX) or name in known | _OTHER_NAMES or name.startswith(_OTHER_PREFIXES):
            continue
        bare = name.removeprefix(ENV_PREFIX)
        near = difflib.get_close_matches(bare, sorted(k.removeprefix(ENV_PREFIX) for k in known), 1)
        hint = f"did you mean {ENV_PREFIX}{near[0]}? " if near else ""
        raise BadInputError(f"{given} in the environment is not a setting: {hint}docs/settings.md has the names")


def _sentence(error: ValidationError) -> str:
    first, more = error.errors()[0], error.error_count() - 1
    path = [str(p) for p in first["loc"]]
    name = ".".join(path) or "settings"
    secret = (
        path[-1:] in (["password"], ["key_password"], ["reader_password"], ["data_password"], ["master_key"])
        or path == ["kafka"]  # all of it
        or path[:1] == ["redis"]
        or "client" in path
    )
    if first["type"] == "extra_forbidden":
        text = f"setting {name} is not known; docs/settings.md has the names"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:]
        value = "set to a wrong value" if secret else f"{first['input']!r}"
        text = f"setting {name} ({ENV_PREFIX}{'__'.join(path).upper()}) is {value}: {reason}"
    return text + (f" (and {more} more)" if more else "")


def settings_env(settings: Settings) -> dict[str, str]:
    """The settings as environment variables: a child process sees exactly these, whatever its folder holds.

    The result holds passwords: hand it to a process, never to a log.
    """
    out: dict[str, str] = {CONFIG_FILE_ENV: os.devnull}
    _flatten(settings.model_dump(mode="json"), ENV_PREFIX, out)
    return out


def _flatten(values: Mapping[str, Any], prefix: str, out: dict[str, str]) -> None:
    for key, value in values.items():
        name = prefix + key.upper()
        if key in ("client", "principals", "roles") or isinstance(value, list):
            out[name] = json.dumps(value)
        elif isinstance(value, Mapping):
            _flatten(value, name + "__", out)
        elif value is not None:
            out[name] = str(value)


def _xdg(variable: str, below_home: str) -> Path:
    named = os.environ.get(variable)
    return Path(named) if named and Path(named).is_absolute() else Path.home() / below_home


def _data_home() -> Path:
    return _xdg("XDG_DATA_HOME", ".local/share") / "clearline"
