"""Where every statement of a reader passes, whichever port it came through: who, what, which settings, how often."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from clearline.embedded.clickhouse import ast, policy, sql
from clearline.embedded.clickhouse.engine import Engine
from clearline.embedded.clickhouse.errors import ServerError, from_engine
from clearline.embedded.clickhouse.readers import Quotas, Users
from clearline.embedded.clickhouse.sessions import Session, Settings
from sinks.finance.changeable import FREE_SETTINGS

# By the engine's own classes of functions: in these, what is new in the next version is refused until somebody has
# looked at it.
_CLASSES_REFUSED: Final = frozenset(
    {"AI", "Dictionary", "Embedded Dictionary", "Internal", "Introspection", "Machine Learning", "Other", "Time Series"}
)
_REFUSED: Final = frozenset({"urlcontents", "encrypt", "decrypt"})
_ALLOWED: Final = frozenset(
    {
        *("bar", "bytesize", "casewithexpression", "countdigits", "currentdatabase", "currentschemas", "currentuser"),
        *("defaultvalueofargumenttype", "defaultvalueoftypename", "digits", "displayname", "dumpcolumnstructure"),
        *("finalizeaggregation", "formatquery", "formatquerysingleline", "formatreadabledecimalsize"),
        *(
            "formatreadablequantity",
            "formatreadablesize",
            "formatreadabletimedelta",
            "getsetting",
            "getsettingordefault",
        ),
        *("getsizeofenumtype", "hostname", "identity", "ignore", "initializeaggregation", "isconstant"),
        *("isdecimaloverflow", "lowcardinalityindices", "lowcardinalitykeys", "materialize", "neighbor", "nested"),
        *("normalizequery", "parsereadablesize", "parsereadablesizeornull", "parsereadablesizeorzero"),
        *("parsetimedelta", "revision", "rownumberinallblocks", "rownumberinblock", "runningaccumulate"),
        *("runningdifference", "throwif", "tocolumntypename", "totypename", "transform", "uptime", "variantelement"),
        *("varianttype", "version", "visiblewidth"),
    }
)

# While a file of this name lies in the folder, nobody may write: for maintenance, and to try what happens then.
READ_ONLY_FILE: Final = "read-only"


@dataclass(slots=True)
class Spent:
    """What a query took: filled in while it runs."""

    rows_read: int = 0


class Gate:
    """One for the whole server."""

    def __init__(self, engine: Engine, users: Users) -> None:
        self.users = users
        self.quotas = Quotas()
        self._engine = engine
        self._maintenance = engine.folder / READ_ONLY_FILE
        self._lock = threading.Lock()

    @contextmanager
    def counted(self, session: Session) -> Iterator[Spent]:
        """Around a statement: counts it and what it took. Raises ServerError when its reader has had its share, or is
        a reader no more."""
        session.user = self.users.again(session.user)
        self.quotas.begin(session.user)
        spent, started = Spent(), time.monotonic()
        try:
            yield spent
        finally:
            self.quotas.end(session.user, spent.rows_read, time.monotonic() - started)

    def admit(
        self, session: Session, statement: sql.Statement, settings: Settings, parameters: Mapping[str, str]
    ) -> sql.Statement:
        """Puts the settings in force and returns the statement to run. Raises ServerError for what may not be asked."""
        user = session.user
        if not user.read_only:
            # As a server whose profile says readonly = 2: the engine itself refuses whatever would change something.
            session.begin({**settings, "readonly": ("2", True)} if self._maintenance.exists() else settings)
            return statement
        sql.check_read_only(statement)
        sql.check_characters(statement)
        self._check_single(statement)
        if statement.verb == "SET":
            for name, value in sql.assignments(statement).items():
                policy.check_setting(user.caps, name, value)
        statement, said = sql.lift_settings(statement)
        sql.check_no_settings(statement)
        if user.policy is not None:
            policy.check_text(statement)
        session.begin({**settings, **said})
        if user.policy is not None and statement.verb != "SET":
            self._check(session, user.policy, statement, parameters)
        return sql.with_settings_told(statement, {*user.caps, *FREE_SETTINGS}) if statement.is_query else statement

    def _check(
        self, session: Session, rules: policy.Policy, statement: sql.Statement, parameters: Mapping[str, str]
    ) -> None:
        explained = session.run(f"EXPLAIN AST {statement.body}", "TSVRaw", parameters).content.decode(errors="replace")
        policy.check_aliases(rules, explained)
        around = policy.Surroundings(session.database(), self._functions, self._exists, self._text)
        policy.check_tree(rules, ast.parse(explained), around, statement.text)

    @cached_property
    def _own(self) -> Any:
        return self._engine.connect()

    @cached_property
    def _functions(self) -> dict[str, bool]:
        asked = "SELECT lower(name), lower(alias_to), is_aggregate, categories, toString(origin) FROM system.functions"
        rows = json.loads(self._ask(f"{asked} FORMAT JSONCompact"))["data"]
        own = {
            name: origin == "System" and (bool(aggregate) or name in _ALLOWED or _harmless(name, classes))
            for name, _, aggregate, classes, origin in rows
        }
        found = {name: own.get(alias, False) if alias else own[name] for name, alias, *_ in rows}
        return {**found, "_cast": True, "lambda": True, "exists": True, "casewithexpression": True, "nested": True}

    def _exists(self, database: str, table: str) -> bool:
        return self._ask(f"EXISTS TABLE {sql.identifier(database)}.{sql.identifier(table)} FORMAT TSV").strip() != "0"

    def _text(self, database: str, view: str) -> str:
        where = f"database = {sql.literal(database)} AND name = {sql.literal(view)}"
        return self._ask(f"SELECT create_table_query FROM system.tables WHERE {where} FORMAT TSVRaw")

    def _check_single(self, statement: sql.Statement) -> None:
        """The engine would run several statements one after the other, `SET ROLE` among them, and where one ends is for
        its parser to say and not for our lexer. Raises ServerError."""
        try:
            self._ask(f"SELECT formatQuery({sql.literal(statement.text)}) FORMAT Null")
        except ServerError as error:
            raise ServerError(error.code, error.message.partition(": In scope ")[0]) from error

    def _ask(self, text: str) -> str:
        with self._lock:
            try:
                content: bytes = self._own.query(text, "TSVRaw").bytes()
            except Exception as error:
                raise from_engine(error) from error
        return content.decode(errors="replace")


def _harmless(name: str, classes: str) -> bool:
    return name not in _REFUSED and not set(classes.split(",")) & _CLASSES_REFUSED
