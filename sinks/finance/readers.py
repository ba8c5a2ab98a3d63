"""ClickHouse users for partners' BI tools: what each may read, how much of it, and the SQL that says so to a server.

A partner's reader sees the rows of its own partner, or of its whole tree, in the tables that have any, and nothing of
the others. Its rows come through row policies on the tables, so they hold in every view as well: the views run with the
rights of whoever asks (SQL SECURITY INVOKER, ClickHouse's default for views). A table, view or column that is not
named here is not granted. The development server of the embedded stack takes the same rules as a document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.names import PARTNER_ID
from schemas.errors import BadInputError
from sinks.clickhouse import Database
from sinks.finance.catalogue import REPORTS
from sinks.finance.changeable import FREE_SETTINGS

PREFIX: Final = "clearline_reader_"  # of profiles, quotas and row policies
BANK: Final = "bank"
SYSTEM_USERS: Final = frozenset({"default", "clearline", "clearline_reader"})

# Whose a row is. Accounts and subjects begin with their owner: `acme:wallet:alice`, `acme/shop-17:wallet:till`.
OWNER: Final[Mapping[str, str]] = {
    "postings": "account_id",
    "pending": "account_id",
    "outcomes": "partner_id",
    "control_changes": "subject_id",
    "calls": "partner_id",
    "limit_rows": "partner_id",
}
# A rejection's detail and a control command's changes can name what others have, or what staff noted.
WITHHELD: Final[Mapping[str, frozenset[str]]] = {
    "outcomes": frozenset({"detail", "changes"}),
    "control_changes": frozenset({"changes"}),
}
_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_NEVER_IN_VIEWS: Final = re.compile(r"\bSQL\s+SECURITY\s+(DEFINER|NONE)\b", re.I)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query, and what all queries of an hour may take. 0 an hour: no bound."""

    execution_seconds: int = 30
    execution_seconds_max: int = 60
    rows_to_read: int = 1_000_000_000
    result_rows: int = 1_000_000
    memory_bytes: int = 2_000_000_000
    queries_per_hour: int = 1_000
    read_rows_per_hour: int = 20_000_000_000
    execution_seconds_per_hour: int = 1_800

    def settings(self) -> dict[str, tuple[int, int, int]]:
        """Settings with bounds: value, least, most. Rows read and memory stay as they are: who could lower them would
        learn from the error how many rows of others there are."""
        return {
            "max_execution_time": (self.execution_seconds, 1, self.execution_seconds_max),
            "max_result_rows": (self.result_rows, 1, self.result_rows),
            "max_rows_to_read": (self.rows_to_read, self.rows_to_read, self.rows_to_read),
            "max_memory_usage": (self.memory_bytes, self.memory_bytes, self.memory_bytes),
        }


@dataclass(frozen=True, slots=True)
class Reader:
    """A user for one partner. `tree`: and for all below it."""

    name: str
    partner: str
    tree: bool
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not PARTNER_ID.fullmatch(self.partner) or self.partner == BANK:
            raise BadInputError(
                f"{self.partner!r} is no partner's path, such as acme or acme/shop-17; the bank has clearline_reader"
            )
        if not _USER.fullmatch(self.name) or self.name in SYSTEM_USERS:
            raise BadInputError(f"{self.name!r} cannot be a reader's name: letters, digits, dots, dashes, at most 63")
        if not 1 <= self.limits.execution_seconds <= self.limits.execution_seconds_max:
            raise BadInputError("a query's time must be at least 1 second and at most its cap")

    def condition(self, table: str) -> str:
        """Which rows of a table it sees, as SQL."""
        column = OWNER[table]
        if column == "partner_id":
            exact, below = f"{column} = '{self.partner}'", f"startsWith({column}, '{self.partner}/')"
        else:
            exact, below = f"startsWith({column}, '{self.partner}:')", f"startsWith({column}, '{self.partner}/')"
        parts = [exact, below] if self.tree else [exact]
        if column == "subject_id":
            parts.append(f"{column} = '{self.partner}'")
        return f"({' OR '.join(parts)})"


def default_name(partner: str) -> str:
    """`acme/shop-17` -> `acme.shop-17_reader`."""
    return f"{partner.replace('/', '.')}_reader"


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is in the database that a reader may be granted: columns by table, and views."""

    database: str
    tables: Mapping[str, tuple[str, ...]]
    views: tuple[str, ...]


def shape(db: Database) -> Shape:
    """The tables with an owner, and the views that read nothing but these and no column that is withheld."""
    rows = db.rows("SELECT name, engine, create_table_query FROM system.tables WHERE database = currentDatabase()")
    texts = {name: text for name, engine, text in rows if engine == "View"}
    wanted = {name for name, engine, _ in rows if engine != "View" and name in OWNER}
    columns: dict[str, list[str]] = {name: [] for name in sorted(wanted)}
    for table, column in db.rows(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND default_kind != 'EPHEMERAL' "
        "ORDER BY table, position"
    ):
        if table in columns and column not in WITHHELD.get(table, ()):
            columns[table].append(column)
    whole_bank = {r.view for r in REPORTS if not r.scoped}
    views = [n for n in sorted(texts) if n not in whole_bank and _safe(n, texts, wanted, db.name, ())]
    return Shape(db.name, {table: tuple(names) for table, names in columns.items()}, tuple(views))


def _safe(view: str, texts: Mapping[str, str], tables: set[str], database: str, above: tuple[str, ...]) -> bool:
    """Whether a view reads only what is granted, however many views down."""
    text = texts[view]
    if view in above or _NEVER_IN_VIEWS.search(text):
        return False
    read = {name for name in re.findall(rf"\b{database}\.`?(\w+)", text) if name != view}
    if any(set(_WORD.findall(text)) & WITHHELD.get(name, frozenset()) for name in read):
        return False
    if "system." in text or (not read and re.search(r"\bFROM\b", text)):
        return False
    return all(
        name in tables or (name in texts and _safe(name, texts, tables, database, (*above, view))) for name in read
    )


def statements(reader: Reader, found: Shape, password_sha256: str, salt: str) -> list[str]:
    """What makes the user on a server, in this order; run again, they make it anew as it is now."""
    user, label = _quoted(reader.name), _quoted(PREFIX + reader.name)
    limits = reader.limits
    bounded = [
        f"{name} = {value}" + (f" MIN {least} MAX {most} CHANGEABLE_IN_READONLY" if least < most else " CONST")
        for name, (value, least, most) in limits.settings().items()
    ]
    free = [f"{name} CHANGEABLE_IN_READONLY" for name in FREE_SETTINGS]
    quota = {
        "queries": limits.queries_per_hour,
        "read_rows": limits.read_rows_per_hour,
        "execution_time": limits.execution_seconds_per_hour,
    }
    most = ", ".join(f"{name} = {value}" for name, value in quota.items() if value)
    return [
        f"CREATE SETTINGS PROFILE OR REPLACE {label} SETTINGS readonly = 1, {', '.join([*bounded, *free])}",
        f"CREATE USER OR REPLACE {user} IDENTIFIED WITH sha256_hash BY '{password_sha256}' SALT '{salt}' HOST ANY "
        f"DEFAULT DATABASE {_quoted(found.database)} SETTINGS PROFILE {label}",
        f"CREATE QUOTA OR REPLACE {label} FOR INTERVAL 1 hour {f'MAX {most}' if most else 'TRACKING ONLY'} TO {user}",
        *(
            f"CREATE ROW POLICY OR REPLACE {label} ON {_place(found, table)} FOR SELECT "
            f"USING {reader.condition(table)} AS PERMISSIVE TO {user}"
            for table in found.tables
        ),
        *(_grant(found, table, columns, user) for table, columns in found.tables.items()),
        *(f"GRANT SELECT ON {_place(found, view)} TO {user}" for view in found.views),
    ]


def _grant(found: Shape, table: str, columns: tuple[str, ...], user: str) -> str:
    listed = f"({', '.join(map(_quoted, columns))})" if table in WITHHELD else ""
    return f"GRANT SELECT{listed} ON {_place(found, table)} TO {user}"


def removal(name: str, found: Shape) -> list[str]:
    """What takes the user off a server again."""
    label = _quoted(PREFIX + name)
    return [
        f"DROP USER IF EXISTS {_quoted(name)}",
        *(f"DROP ROW POLICY IF EXISTS {label} ON {_place(found, table)}" for table in found.tables),
        f"DROP QUOTA IF EXISTS {label}",
        f"DROP SETTINGS PROFILE IF EXISTS {label}",
    ]


def document(reader: Reader, found: Shape, password_sha256: str, salt: str) -> dict[str, Any]:
    """The same for the development server's file."""
    limits = reader.limits
    return {
        "partner": reader.partner,
        "tree": reader.tree,
        "password": {"sha256": password_sha256, "salt": salt},
        "database": found.database,
        "tables": {table: reader.condition(table) for table in found.tables},
        "views": list(found.views),
        "withheld": {table: sorted(columns) for table, columns in WITHHELD.items() if table in found.tables},
        "settings": {
            name: {"value": value, "least": least, "most": most}
            for name, (value, least, most) in limits.settings().items()
        },
        "quota": {
            "seconds": 3600,
            "queries": limits.queries_per_hour,
            "read_rows": limits.read_rows_per_hour,
            "execution_seconds": limits.execution_seconds_per_hour,
        },
    }


def _place(found: Shape, name: str) -> str:
    return f"{_quoted(found.database)}.{_quoted(name)}"


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
