"""Prepares a world on servers that are there: topics, who may do what on the brokers, schemas, tables, users.

One shot, run before the roles start and again after each upgrade. It looks first and does only what is missing, so a
second run changes nothing; what it would do is its plan. Nothing is ever deleted or made smaller.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from clearline.config import Settings
from clearline.connection import clickhouse_config, kafka_config, registry_of
from schemas.errors import BadInputError
from sinks import migrate, users
from streams import access
from streams.topics import Topics, check_topics, create_topics, refuse_lost

OF_ROLE = "KAFKA_PASSWORD_"  # begins a variable: KAFKA_PASSWORD_SINK_REDIS is the password of sink-redis
TRIAL = "only-for-trying-out"  # how the secrets of .env.example begin


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is missing, or was."""

    part: str
    what: str

    def to_dict(self) -> dict[str, str]:
        return {"part": self.part, "what": self.what}


def plan(settings: Settings, environment: Mapping[str, str], parts: Sequence[str] = ()) -> list[Step]:
    """What `prepare` would do, for these parts (default: all of PARTS). Changes nothing.

    Raises BadInputError and PartUnavailableError as `prepare` does.
    """
    return _each(settings, environment, parts, dry=True)


def prepare(settings: Settings, environment: Mapping[str, str], parts: Sequence[str] = ()) -> list[Step]:
    """Does what is missing; returns it. `settings` hold all addresses; `environment`: KAFKA_PASSWORD_<ROLE>.

    Raises BadInputError: an unknown part, a secret that is for trying out in a world that is not, a topic with another
    number of partitions or one that was lost, a schema that the registry refuses, a migration that was changed;
    PartUnavailableError.
    """
    refuse_trial_secrets(settings, environment)
    return _each(settings, environment, parts, dry=False)


def _each(settings: Settings, environment: Mapping[str, str], parts: Sequence[str], *, dry: bool) -> list[Step]:
    unknown = [p for p in parts if p not in PARTS]
    if unknown:
        raise BadInputError(f"{unknown[0]} is nothing that is prepared; that is {', '.join(PARTS)}")
    return [
        Step(part, what) for part in PARTS if part in (parts or PARTS) for what in _DO[part](settings, environment, dry)
    ]


def _topics(settings: Settings, _environment: Mapping[str, str], dry: bool) -> list[str]:
    kafka, topics, copies = kafka_config(settings), Topics(settings.world), settings.kafka.replication
    missing = check_topics(kafka, topics, settings.partitions)
    refuse_lost(kafka, topics, missing)
    if not dry:
        create_topics(kafka, topics, settings.partitions, replication=copies)
    # Where the others are there and this version does not bring it, somebody has deleted it.
    lost = "; the world's others are there: if it was, too, what it held is lost (docs/OPERATING.md, topic missing)"
    why = lost if 0 < len(missing) < len(topics.settings()) else ""
    return [f"topic {name}: {settings.partitions} partitions, {copies} of each{why}" for name in missing]


def _access(settings: Settings, environment: Mapping[str, str], dry: bool) -> list[str]:
    """Principals with SCRAM passwords, then what each may do. A cluster without security needs neither."""
    if settings.kafka.security_protocol == "PLAINTEXT" and not settings.kafka.client:
        return []
    kafka, topics, named = kafka_config(settings), Topics(settings.world), settings.kafka.principals
    found = passwords(settings, environment)
    new = access.missing_users(kafka, found) if dry else access.set_users(kafka, found) if found else []
    rules = (access.plan if dry else access.apply)(kafka, topics, named)
    return [
        *(f"user {name} of the brokers" for name in new),
        *(f"rule: {grant}" for grant in rules.missing),
        *(f"rule taken away: {grant}" for grant in rules.surplus),
    ]


def _schemas(settings: Settings, _environment: Mapping[str, str], dry: bool) -> list[str]:
    registry = registry_of(settings)
    missing = registry.missing()
    if not dry:
        registry.register_all()
    return [f"schema {subject}" for subject in missing]


def _tables(settings: Settings, _environment: Mapping[str, str], dry: bool) -> list[str]:
    config = clickhouse_config(settings)
    steps = migrate.plan(config) if dry else migrate.apply(config)
    return [f"{m.kind} {m.title}" for m in steps]


def _users(settings: Settings, _environment: Mapping[str, str], dry: bool) -> list[str]:
    config, house = clickhouse_config(settings), settings.clickhouse
    wanted = users.house_users(config, house.data_user, house.data_password)
    found = users.missing(config, wanted) if dry else users.make(config, wanted)
    return [f"ClickHouse user {u.name}, who {u.purpose}" for u in found]


_DO: dict[str, Callable[[Settings, Mapping[str, str], bool], list[str]]] = {
    "topics": _topics,
    "access": _access,
    "schemas": _schemas,
    "tables": _tables,
    "users": _users,
}
PARTS = tuple(_DO)


def passwords(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The password of each principal, from KAFKA_PASSWORD_<ROLE>. Raises BadInputError for a role that is none."""
    out: dict[str, str] = {}
    names = {role.upper().replace("-", "_"): role for role in access.ROLES}
    for variable, password in sorted(environment.items()):
        if not variable.startswith(OF_ROLE) or not password:
            continue
        role = names.get(variable.removeprefix(OF_ROLE))
        if role is None:
            raise BadInputError(f"{variable} names no role; roles are {', '.join(access.ROLES)}")
        for principal in settings.kafka.principals.get(role) or [access.user_of(settings.world, role)]:
            out[principal] = password
    return out


def refuse_trial_secrets(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raises BadInputError when a secret of .env.example is used in a world that is not a sandbox."""
    if settings.sandbox:
        return
    house = settings.clickhouse
    given = {
        "CLEARLINE_KAFKA__PASSWORD": settings.kafka.password,
        "CLEARLINE_CLICKHOUSE__PASSWORD": house.password,
        "CLEARLINE_CLICKHOUSE__READER_PASSWORD": house.reader_password,
        "CLEARLINE_CLICKHOUSE__DATA_PASSWORD": house.data_password,
        "CLEARLINE_REDIS__URL": unquote(urlsplit(settings.redis.url or "").password or ""),
        "CLEARLINE_GATEWAY__MASTER_KEY": _decoded(settings.gateway.master_key),
        **{name: value for name, value in environment.items() if name.startswith(OF_ROLE)},
    }
    for name, value in given.items():
        if value.startswith(TRIAL):
            raise BadInputError(
                f"{name} is the one of .env.example, which everybody knows: world {settings.world} is not for trying "
                "out. `sh deploy/make-env.sh > .env` makes secrets; or use a world whose name begins with sandbox"
            )


def _decoded(key: str) -> str:
    try:
        return base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)).decode("latin-1")
    except (binascii.Error, ValueError):
        return ""
