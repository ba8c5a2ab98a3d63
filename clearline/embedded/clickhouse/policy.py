"""What a partner's reader may ask: which tables and views, which rows of them, and which settings it may change.

A real server has grants, row policies and setting constraints for this (`clearline reader show` prints them). The
engine has none of its own for a single reader, so here a statement is taken apart by the engine's own parser and
refused unless everything in it is allowed: an unknown table, function or kind of clause is refused, not passed. Rows
are left out by the engine's setting `additional_table_filters`, which reaches through views and subqueries and which
`readonly = 1` keeps from being changed; ROWS_FIRST makes it look at nothing in a row before that filter did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from clearline.embedded.clickhouse.ast import Node
from clearline.embedded.clickhouse.errors import ACCESS_DENIED, READONLY, SETTING_CONSTRAINT_VIOLATION, ServerError
from clearline.embedded.clickhouse.sql import Statement, literal
from sinks.finance.changeable import FREE_SETTINGS

# The engine moves conditions towards the table. A reader's own could then look at a row before the filter had left it
# out, and tell by an error that it is there: throwIf(partner_id = 'other'). With these nothing moves.
ROWS_FIRST: Final[dict[str, int]] = {
    "query_plan_enable_optimizations": 0,
    "query_plan_filter_push_down": 0,
    "query_plan_merge_filters": 0,
    "query_plan_merge_expressions": 0,
    "query_plan_optimize_prewhere": 0,
    "optimize_move_to_prewhere": 0,
    "optimize_use_projections": 0,
    "optimize_use_implicit_projections": 0,
    "optimize_trivial_count_query": 0,
    "enable_join_runtime_filters": 0,
    "use_query_condition_cache": 0,
    "use_query_cache": 0,
    "output_format_write_statistics": 0,  # how many rows were looked at is not for a reader either
}
_SYSTEM: Final = ("system", "information_schema", "INFORMATION_SCHEMA")
_DATABASES: Final = ("default", *_SYSTEM)
# What tools list: nothing in these is of anybody else once they are filtered.
_SYSTEM_TABLES: Final = frozenset(
    {
        *(f"system.{name}" for name in ("one", "numbers", "numbers_mt", "zeros", "databases", "tables", "columns")),
        *(f"system.{name}" for name in ("data_skipping_indices", "settings", "functions", "table_functions")),
        *(f"system.{name}" for name in ("formats", "data_type_families", "time_zones", "collations", "keywords")),
        *(f"system.{name}" for name in ("table_engines", "database_engines", "aggregate_function_combinators")),
        *(f"{schema}.{name}" for schema in _SYSTEM[1:] for name in ("tables", "columns", "schemata", "views")),
        *(f"{schema}.{name}" for schema in _SYSTEM[1:] for name in ("TABLES", "COLUMNS", "SCHEMATA", "VIEWS")),
    }
)
# How much there is of everybody's, and where it is kept.
_SIZES: Final = frozenset(
    {
        *("total_rows", "total_bytes", "total_bytes_uncompressed", "parts", "active_parts", "total_marks"),
        *("lifetime_rows", "lifetime_bytes", "metadata_path", "metadata_modification_time"),
        *("data_compressed_bytes", "data_uncompressed_bytes", "marks_bytes", "data_path", "marks"),
        *("columns_descriptions_cache_size", "active_on_fly_data_mutations", "active_on_fly_alter_mutations"),
        *("table_rows", "data_length", "index_length", "TABLE_ROWS", "DATA_LENGTH", "INDEX_LENGTH"),
    }
)
# Where a row lies in its part, which tells how many rows of others lie before it.
_PLACES: Final = frozenset(
    {
        *("_part", "_part_index", "_part_uuid", "_part_offset", "_part_starting_offset", "_part_granule_offset"),
        *("_block_number", "_block_offset", "_disk_name", "_part_data_version"),
    }
)
_TABLE_FUNCTIONS: Final = frozenset({"numbers", "numbers_mt", "zeros", "generateseries", "generate_series", "values"})
_STATEMENTS: Final = frozenset(
    {
        *("SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "DescribeQuery", "ShowTables"),
        *("ShowColumns", "ShowIndexes", "ShowFunctions", "ShowCreateTableQuery", "ShowCreateViewQuery"),
        *("ExistsTableQuery", "ExistsViewQuery", "ExistsDatabaseQuery", "UseQuery"),
    }
)
_NAMED: Final = ("ShowCreateTableQuery", "ShowCreateViewQuery", "ExistsTableQuery", "ExistsViewQuery")
_STARS: Final = frozenset(
    {
        *("Asterisk", "QualifiedAsterisk", "ColumnsRegexpMatcher", "ColumnsListMatcher"),
        *("QualifiedColumnsRegexpMatcher", "QualifiedColumnsListMatcher"),
    }
)
_CLAUSES: Final = _STARS | {
    *("ExpressionList", "Identifier", "Literal", "Function", "Subquery", "TableIdentifier", "TablesInSelectQuery"),
    *("TablesInSelectQueryElement", "TableExpression", "TableJoin", "ArrayJoin", "OrderByElement", "WithElement"),
    *("WindowListElement", "WindowDefinition", "SampleRatio", "InterpolateElement", "ColumnsTransformerList"),
    *("ColumnsApplyTransformer", "ColumnsExceptTransformer", "ColumnsReplaceTransformer"),
}
_SHOWS: Final = frozenset({"TABLES", "DATABASES", "COLUMNS", "FIELDS", "FULL", "EXTENDED", "CREATE", "FUNCTIONS"}) | {
    *("SETTINGS", "INDEX", "INDEXES", "INDICES", "KEYS")
}
_IN: Final = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.I)
_QUALIFIED: Final = re.compile(r"\b(\w+)\.(\w+)")
_BEFORE_ROWS: Final = re.compile(r"\bprewhere\b", re.I)
_NATURAL: Final = re.compile(r"\bnatural\b", re.I)


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit that holds unless a query asks for another between `least` and `most`."""

    value: float
    least: float
    most: float


# Whole-bank readers may take ten minutes a query.
FINANCE_CAPS: Final[Mapping[str, Cap]] = {"max_execution_time": Cap(600, 1, 600)}


def check_setting(caps: Mapping[str, Cap], name: str, value: str) -> None:
    """Raises ServerError, worded and numbered as a server does, for a setting that this reader may not change so."""
    cap = caps.get(name)
    if cap is None:
        if name not in FREE_SETTINGS:
            raise ServerError(READONLY, f"Cannot modify '{name}' setting in readonly mode.")
        return
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number == cap.value or cap.least <= number <= cap.most:
        return
    side = f"shouldn't be less than {cap.least:g}" if number < cap.least else f"shouldn't be greater than {cap.most:g}"
    raise ServerError(SETTING_CONSTRAINT_VIOLATION, f"Setting {name} {side}")


@dataclass(frozen=True, slots=True)
class Policy:
    """What one reader may see of one database.

    `tables`: a condition on the rows of each table; `withheld`: columns that are not granted, by table or view.
    """

    database: str
    tables: Mapping[str, str]
    views: frozenset[str]
    withheld: Mapping[str, frozenset[str]] = field(default_factory=dict)
    caps: Mapping[str, Cap] = field(default_factory=dict)

    def may_use(self, database: str) -> bool:
        """Whether it may be the current database."""
        return database in (self.database, *_DATABASES)

    def conditions(self) -> dict[str, str]:
        """On the rows of each table, by its full name."""
        own = {f"{self.database}.{table}": condition for table, condition in self.tables.items()}
        return own | self._system_filters()

    def filters(self) -> str:
        """The value of `additional_table_filters`, as SQL."""
        pairs = (f"{literal(name)}: {literal(condition)}" for name, condition in self.conditions().items())
        return "{" + ", ".join(pairs) + "}"

    def _system_filters(self) -> dict[str, str]:
        names = ", ".join(literal(name) for name in (*self.tables, *self.views))
        own = literal(self.database)
        hidden = "".join(
            f" AND NOT (table = {literal(table)} AND name IN ({', '.join(map(literal, sorted(columns)))}))"
            for table, columns in self.withheld.items()
        )
        known = ", ".join(map(literal, (self.database, *_DATABASES)))
        return {
            "system.databases": f"name IN ({known})",
            "system.tables": f"database = {own} AND name IN ({names})",
            "system.columns": f"database = {own} AND table IN ({names}){hidden}",
            "system.data_skipping_indices": f"database = {own} AND table IN ({names})",
        }

    def allows(self, database: str, name: str) -> bool:
        """Whether a table or a view may be read."""
        if database == self.database:
            return name in self.tables or name in self.views
        return f"{database}.{name}" in _SYSTEM_TABLES


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What must be known beside the statement: the session's database, the functions readers may call (by lower-case
    name, value False for those they may not), whether a table of that name is there, and how a view is made."""

    database: str
    functions: Mapping[str, bool]
    exists: Callable[[str, str], bool]
    text: Callable[[str, str], str]


def check_text(statement: Statement) -> None:
    """What can be refused before the engine parses it. Raises ServerError."""
    if statement.verb == "EXPLAIN":
        raise _denied("EXPLAIN")
    if statement.verb == "SHOW" and (len(statement.tokens) < 2 or statement.tokens[1].upper not in _SHOWS):
        raise _denied("SHOW")
    if _BEFORE_ROWS.search(statement.text):
        raise ServerError(ACCESS_DENIED, "Not enough privileges: PREWHERE would look at rows before the row policy")
    for token in statement.tokens:
        if token.kind == "quoted" and any(char in token.text for char in "\n\r\\"):
            raise ServerError(ACCESS_DENIED, "Not enough privileges: a quoted name with a line end or a backslash")


def check_aliases(policy: Policy, explained: str) -> None:
    """The engine takes a filter for a table of its name and for one of that alias, so no table may call itself another.
    Raises ServerError."""
    for name in policy.conditions():
        if f"(alias {name})" in explained:
            raise ServerError(ACCESS_DENIED, f"Not enough privileges: {name} is no alias")


def check_tree(policy: Policy, root: Node, around: Surroundings, text: str) -> None:
    """Raises ServerError unless everything in the statement is allowed."""
    nodes = [node for node in root.walk() if node.kind]
    if not root.children or root.children[0].kind not in _STATEMENTS:
        raise _denied(root.children[0].kind if root.children else "this statement")
    touched = set[str]()
    for node in nodes:
        if node.kind not in _CLAUSES and node.kind not in _STATEMENTS:
            raise _denied(f"a clause {node.kind}")
        if node.kind == "TableIdentifier":
            touched |= _table(policy, node.name, around, lenient="." not in node.name)
        elif node.kind == "Function":
            touched |= _function(policy, node, around)
        elif node.kind == "Identifier" and _PLACES & set(node.name.split(".")):
            raise _denied(f"SELECT({node.name})")
        elif node.kind in _NAMED:
            touched |= _table(policy, ".".join(child.name for child in node.children), around)
        elif node.kind in ("UseQuery", "ExistsDatabaseQuery"):
            name = node.children[0].name if node.children else node.name
            if name not in (policy.database, *_DATABASES):
                raise _denied(f"SHOW DATABASES ON {name}")
    _withheld(policy, nodes, touched, around, text)


def _table(policy: Policy, name: str, around: Surroundings, *, lenient: bool = False) -> set[str]:
    """The full name of a table that may be read. `lenient`: a name may be that of a common table expression, or of a
    column; it may as long as there is no table that it could be of."""
    database, _, table = name.rpartition(".")
    database = database or around.database
    if policy.allows(database, table):
        if database == policy.database and table in policy.views:
            _view(policy, table, around)
        return {f"{database}.{table}"}
    if lenient and not around.exists(database, table):
        return set()
    raise _denied(f"SELECT ON {database}.{table}")


def _view(policy: Policy, view: str, around: Surroundings) -> None:
    """A view may have been made anew since it was allowed: what it reads must still be allowed."""
    for database, table in _QUALIFIED.findall(around.text(policy.database, view)):
        if (database, table) == (policy.database, view):
            continue
        if database in (policy.database, *_SYSTEM) and not policy.allows(database, table):
            raise _denied(f"SELECT ON {database}.{table}")
        if database == policy.database and table in policy.views:
            _view(policy, table, around)


def _function(policy: Policy, node: Node, around: Surroundings) -> set[str]:
    name = node.name
    if node.parent is not None and node.parent.kind == "TableExpression":
        database, _, view = name.rpartition(".")
        if (database or around.database) == policy.database and view in policy.views:
            _view(policy, view, around)
            return {f"{policy.database}.{view}"}
        if name.lower() not in _TABLE_FUNCTIONS:
            raise ServerError(READONLY, f"Cannot execute query in readonly mode: table function {name} is not allowed")
        return set()
    if not _callable(name, around.functions):
        raise _denied(f"the function {name}")
    if _IN.fullmatch(name) and node.children:
        return {
            found
            for argument in node.children[0].children[1:2]
            if argument.kind == "Identifier"
            for found in _table(policy, argument.name, around, lenient=True)
        }
    return set()


def _callable(name: str, functions: Mapping[str, bool]) -> bool:
    known = functions.get(name.lower())
    if known is None:  # an aggregate function with a combinator, such as sumIf; no other is known to the parser only
        return any(functions.get(name.lower()[:end], False) for end in range(len(name) - 1, 2, -1))
    return known


def _withheld(policy: Policy, nodes: list[Node], touched: set[str], around: Surroundings, text: str) -> None:
    """Columns that are not granted: not by name, and not by a star over their table."""
    hidden = {f"{policy.database}.{name}": columns for name, columns in policy.withheld.items()}
    hidden |= dict.fromkeys((n for n in _SYSTEM_TABLES if n.endswith((".tables", ".columns", "indices"))), _SIZES)
    hidden |= dict.fromkeys((n for n in _SYSTEM_TABLES if n.endswith((".TABLES", ".COLUMNS"))), _SIZES)
    names = set[str]().union(*(hidden[table] for table in touched if table in hidden))
    if not names:
        return
    if _NATURAL.search(text):
        raise _denied("a NATURAL JOIN with columns that are not granted")
    for node in nodes:
        if node.kind == "Identifier" and names & set(node.name.split(".")):
            raise _denied(f"SELECT({node.name})")
        if node.kind in _STARS and not _counted(node):
            select = node.above("SelectQuery")
            if select is None or _tables_of(select, around) & hidden.keys():
                raise _denied(f"SELECT({', '.join(sorted(names))}): name the columns instead of *")


def _counted(star: Node) -> bool:
    """count(*) reads no column."""
    call = star.parent.parent if star.parent is not None else None
    return call is not None and call.kind == "Function" and call.name.lower() == "count"


def _tables_of(select: Node, around: Surroundings) -> set[str]:
    """What stands right in a query's FROM."""
    found = set[str]()
    for clause in select.children:
        for element in clause.children if clause.kind == "TablesInSelectQuery" else ():
            for expression in element.children:
                for table in expression.children:
                    if table.kind in ("TableIdentifier", "Function"):
                        database, _, name = table.name.rpartition(".")
                        found.add(f"{database or around.database}.{name}")
    return found


def _denied(what: str) -> ServerError:
    return ServerError(
        ACCESS_DENIED, f"Not enough privileges. To execute this query, it's necessary to have the grant {what}"
    )
