"""ClickHouse users of the house: who reads for reports, who writes partners' own tables. For `clearline prepare`.

A server may have them from files of its own (`deploy/clickhouse-reader.xml`): then nothing is to do. Whether a user
is as it should be is found out by logging in as it, so a second run changes nothing and a changed password is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from schemas.errors import BadInputError, PartUnavailableError
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance.changeable import FREE_SETTINGS
from sinks.finance.tables import data_database
from sinks.layout import Layout

READER_SECONDS_MAX: Final = 600  # of one query of the reader, as in deploy/clickhouse-reader.xml
_REFUSED: Final = ("Authentication failed", "AUTHENTICATION_FAILED", "There is no user")


@dataclass(frozen=True, slots=True)
class HouseUser:
    """A user that roles log in as. `purpose`: what it may do, in words; `grants`: what it is granted, on what."""

    name: str
    password: str
    purpose: str
    grants: Mapping[str, str]
    profile: str = ""  # the settings of its profile, as SQL


def house_users(config: ClickHouseConfig, data_user: str = "", data_password: str = "") -> list[HouseUser]:
    """The users that the settings name besides the writer, who is the one to make them."""
    free = ", ".join(f"{name} CHANGEABLE_IN_READONLY" for name in FREE_SETTINGS)
    seconds = f"max_execution_time = {READER_SECONDS_MAX} MIN 1 MAX {READER_SECONDS_MAX} CHANGEABLE_IN_READONLY"
    look_up = "min_table_rows_to_use_projection_index = 0"
    reader = HouseUser(
        config.reader_user, config.reader_password, "reads the ledger for reports and `clearline sql`",
        {f"{config.database}.*": "SELECT", f"{data_database(config.database)}.*": "SELECT"},
        f"readonly = 1, {seconds}, {look_up}, distributed_product_mode = 'global', {free}",
    )  # fmt: skip
    if not data_user:
        return [reader]
    own = {
        f"{data_database(config.database)}.*": "CREATE DATABASE, CREATE TABLE, DROP TABLE, SELECT, INSERT",
        "system.tables": "SELECT",
    }
    return [reader, HouseUser(data_user, data_password, "writes partners' own tables and nothing else", own)]


def statements(config: ClickHouseConfig, user: HouseUser) -> list[str]:
    """What makes a user, on every server of a cluster; run again, they set its password and rights anew.

    The password goes to the server as a hash, so that it is in no log of queries.
    """
    on = Layout(config).on_cluster
    name = f"`{user.name}`"
    digest = sha256(user.password.encode()).hexdigest()
    out = [f"CREATE USER IF NOT EXISTS {name}{on} IDENTIFIED WITH sha256_hash BY '{digest}' HOST ANY"]
    out.append(f"ALTER USER {name}{on} IDENTIFIED WITH sha256_hash BY '{digest}'")
    if user.profile:
        out.append(f"CREATE SETTINGS PROFILE OR REPLACE `clearline_{user.name}`{on} SETTINGS {user.profile}")
        out.append(f"ALTER USER {name}{on} SETTINGS PROFILE `clearline_{user.name}`")
    # Counted, not bounded: what the house's own roles take per hour can be read in system.quota_usage.
    out.append(f"CREATE QUOTA OR REPLACE `clearline_{user.name}`{on} FOR INTERVAL 1 hour TRACKING ONLY TO {name}")
    out += [f"GRANT{on} {rights} ON {place} TO {name}" for place, rights in user.grants.items()]
    return out


def missing(config: ClickHouseConfig, users: list[HouseUser]) -> list[HouseUser]:
    """Those who cannot log in with the password of the settings. Raises PartUnavailableError."""
    return [u for u in users if not _may_log_in(config, u)]


def make(config: ClickHouseConfig, users: list[HouseUser]) -> list[HouseUser]:
    """Makes those who are missing; returns them. Raises BadInputError when the server keeps a user in a file of its
    own, with another password; PartUnavailableError."""
    todo = missing(config, users)
    db = Database(config, with_database=False)
    try:
        for user in todo:
            kept = db.rows("SELECT storage FROM system.users WHERE name = %(n)s", {"n": user.name})
            if kept and "xml" in str(kept[0][0]):
                raise BadInputError(
                    f"ClickHouse has the user {user.name} in a file of its own, with another password than the "
                    "settings': give both the same"
                )
            for statement in statements(config, user):
                db.run(statement)
    finally:
        db.close()
    return todo


def _may_log_in(config: ClickHouseConfig, user: HouseUser) -> bool:
    db = Database(replace(config, user=user.name, password=user.password), with_database=False)
    try:
        db.rows("SELECT 1")
    except PartUnavailableError as e:
        if any(word in str(e) for word in _REFUSED):
            return False
        raise
    finally:
        db.close()
    return True
