"""What the server must know of a statement before the engine runs it, from a lexer and not from a parser.

The engine parses; here it is only settled which kind of statement it is, where an INSERT's data begins, which FORMAT
is asked for, and what the read-only user may not say.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from clearline.embedded.clickhouse.errors import (
    INTO_OUTFILE_NOT_ALLOWED,
    NOT_IMPLEMENTED,
    QUERY_NOT_ALLOWED,
    READONLY,
    SYNTAX_ERROR,
    ServerError,
)

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*.*?\*/|\#[ !][^\n]*)
      |(?P<string>'(?:[^'\\]|\\.|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
      |(?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
      |(?P<word>[A-Za-z_]\w*)
      |(?P<number>\d\w*(?:\.\w+)?)
      |(?P<punct>.)""",
    re.S | re.X,
)
_QUERIES: Final = frozenset({"SELECT", "WITH", "FROM", "("})
_READS: Final = _QUERIES | {"SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "USE", "SET", "VALUES"}
_FORMATTED: Final = _READS | {"KILL", "CHECK"}
_BEFORE_TABLE: Final = frozenset({"FROM", "JOIN", "TABLE", "DESCRIBE", "DESC", "EXISTS"})

# Table functions and functions that reach outside the tables. The engine's readonly=1 refuses the table functions by
# itself; the names are a second belt, and the only one for functions such as file(path).
_OUTWARD: Final = frozenset(
    {
        *("file", "filecluster", "url", "urlcluster", "s3", "s3cluster", "gcs", "hdfs", "hdfscluster"),
        *("remote", "remotesecure", "cluster", "clusterallreplicas", "executable", "python", "input", "loop"),
        *("mysql", "postgresql", "mongodb", "redis", "sqlite", "jdbc", "odbc", "arrowflight", "ytsaurus"),
        *("azureblobstorage", "iceberg", "icebergs3", "iceberglocal", "icebergazure", "deltalake", "hudi", "paimon"),
        *("deltalakelocal", "catboostevaluate", "mergetreeindex"),
    }
)


class Token(NamedTuple):
    """A piece of a statement; `depth` counts open parentheses before it."""

    kind: str
    text: str
    start: int
    end: int
    depth: int

    @property
    def upper(self) -> str:
        """The text as a keyword."""
        return self.text.upper() if self.kind in ("word", "punct") else ""


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT that brings its rows along (not INSERT SELECT)."""

    target: str  # as written, quoting included
    columns: str  # "(a, b)" as written, or ""
    settings: str  # "a = 1, b = 2" as written, or ""
    format: str  # "Values" when it says VALUES
    data_start: int  # where inline data would begin

    def from_file(self, path: str, format_: str, settings: str) -> str:
        """The same INSERT, reading its rows from a file on this machine."""
        all_settings = ", ".join(part for part in (self.settings, settings) if part)
        return f"INSERT INTO {self.target} {self.columns} FROM INFILE '{path}' SETTINGS {all_settings} FORMAT {format_}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, seen from outside."""

    text: str  # as it came, without a closing semicolon
    verb: str  # first keyword in capitals, "(" for a parenthesised query
    tokens: tuple[Token, ...]  # of an INSERT with rows: up to the rows
    insert: Insert | None
    format: str | None
    body: str  # the text without its FORMAT clause

    @property
    def is_query(self) -> bool:
        """It answers with rows and can be streamed."""
        return self.verb in _QUERIES

    @property
    def has_totals(self) -> bool:
        """It asks for WITH TOTALS somewhere."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return any(first.upper == "WITH" and second.upper == "TOTALS" for first, second in pairs)


def tokenize(text: str) -> Iterator[Token]:
    """The tokens of `text` without blanks and comments."""
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "punct"
        if kind == "tag":
            kind = "string"
        if kind == "skip":
            continue
        piece = match.group()
        if piece == ")":
            depth -= 1
        yield Token(kind, piece, match.start(), match.end(), depth)
        if piece == "(":
            depth += 1


def inspect(text: str) -> Statement:
    """Look at one statement. Raises ServerError for none, for several, and for what a server does not do."""
    stream = tokenize(text)
    first = next(stream, None)
    if first is None or first.text == ";":
        raise ServerError(SYNTAX_ERROR, "Empty query")
    if first.upper == "INSERT":
        return _insert(text, [first], stream)
    return _other(text, [first, *stream])


def _other(text: str, tokens: list[Token]) -> Statement:
    end = len(text)
    for index, token in enumerate(tokens):
        if token.text == ";" and token.kind == "punct":
            if index + 1 < len(tokens):
                raise ServerError(SYNTAX_ERROR, "Multi-statements are not allowed: send one statement at a time")
            end = token.start
            tokens = tokens[:index]
    text = text[:end]
    for here, after in itertools.pairwise(tokens):
        if here.upper == "INTO" and after.upper == "OUTFILE" and here.depth == 0:
            raise ServerError(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")
    verb = tokens[0].upper
    format_, body = _format_clause(text, tokens) if verb in _FORMATTED else (None, text)
    return Statement(text, verb, tuple(tokens), None, format_, body)


def _format_clause(text: str, tokens: list[Token]) -> tuple[str | None, str]:
    for index in range(len(tokens) - 2, 0, -1):
        here, name = tokens[index], tokens[index + 1]
        if here.depth or here.upper != "FORMAT" or name.kind != "word":
            continue
        if index + 2 == len(tokens) or tokens[index + 2].upper == "SETTINGS":
            return name.text, text[: here.start] + text[name.end :]
    return None, text


def _insert(text: str, seen: list[Token], stream: Iterator[Token]) -> Statement:
    tokens = seen

    def pull() -> Token:
        token = next(stream, None)
        if token is None:
            raise ServerError(SYNTAX_ERROR, "Syntax error: INSERT ends before VALUES, FORMAT or SELECT")
        tokens.append(token)
        return token

    token = pull()
    if token.upper == "INTO":
        token = pull()
    if token.upper == "TABLE":
        token = pull()
    if token.upper == "FUNCTION":
        return _whole(text, tokens, stream)
    start, end, columns, settings = token.start, token.end, "", ""
    token = pull()
    while token.text == "." and token.kind == "punct":
        end = pull().end
        token = pull()
    target = text[start:end]
    if token.text == "(":
        opening = token
        while not (token.text == ")" and token.depth == 0):
            token = pull()
        columns = text[opening.start : token.end]
        if tokens[tokens.index(opening) + 1].upper in ("SELECT", "WITH"):
            return _whole(text, tokens, stream)
        token = pull()
    if token.upper == "SETTINGS":
        begin = token.end
        while not (token.depth == 0 and token.upper in ("VALUES", "FORMAT", "SELECT", "WITH", "FROM")):
            token = pull()
        settings = text[begin : token.start].strip()
    if token.upper == "FROM":
        raise ServerError(QUERY_NOT_ALLOWED, "Query has infile and was send directly to server")
    if token.upper not in ("VALUES", "FORMAT"):
        return _whole(text, tokens, stream)
    format_ = "Values" if token.upper == "VALUES" else pull().text
    insert = Insert(target, columns, settings, format_, tokens[-1].end)
    return Statement(text, "INSERT", tuple(tokens), insert, format_, text)


def _whole(text: str, tokens: list[Token], stream: Iterator[Token]) -> Statement:
    """An INSERT SELECT or the like: nothing in it for the server to do."""
    tokens.extend(stream)
    pairs = itertools.pairwise(tokens)
    if any(here.upper == "FROM" and after.upper == "INFILE" for here, after in pairs):
        raise ServerError(QUERY_NOT_ALLOWED, "Query has infile and was send directly to server")
    return _other(text, tokens)


def inline_data(statement: Statement) -> str:
    """The rows written after VALUES or FORMAT x, or "" if they come separately."""
    if statement.insert is None:
        return ""
    return statement.text[statement.insert.data_start :].strip().rstrip(";").strip()


def check_read_only(statement: Statement) -> None:
    """What the read-only user may not say. Raises ServerError with ClickHouse's code for read-only mode."""
    if statement.verb not in _READS:
        raise ServerError(READONLY, f"Cannot execute query in readonly mode: {statement.verb} is not allowed")
    tokens = statement.tokens
    for index, (here, after) in enumerate(itertools.pairwise(tokens)):
        name = here.text.strip('`"').lower()
        if here.kind in ("word", "quoted") and after.text == "(" and name in _OUTWARD:
            raise ServerError(READONLY, f"Cannot execute query in readonly mode: function {name} is not allowed")
        # The engine resolves a quoted name with a path in it as a file, in the database "default".
        in_default = here.text == "." and tokens[index - 1].text.strip('`"').lower() == "default"
        is_path = after.kind in ("string", "quoted") and "/" in after.text
        if is_path and (in_default or here.upper in _BEFORE_TABLE):
            raise ServerError(READONLY, f"Cannot execute query in readonly mode: table {after.text} is a file")


def check_characters(statement: Statement) -> None:
    """Outside of strings, a reader's statement is ASCII: the engine takes typographic quotes for quotes, so it could
    see the end of a string where the lexer here sees none. Raises ServerError."""
    for token in statement.tokens:
        if token.kind == "punct" and not (token.text.isascii() and token.text.isprintable()):
            raise ServerError(SYNTAX_ERROR, f"Unrecognized token: {token.text!r} outside of a string")


def assignments(statement: Statement) -> dict[str, str]:
    """Names and values of a SET. Raises ServerError for SET ROLE and the like, which are no settings."""
    found = _pairs(statement.tokens[1:])
    if found is None:
        raise ServerError(READONLY, "Cannot execute query in readonly mode: SET takes name = value only")
    return found


def lift_settings(statement: Statement) -> tuple[Statement, dict[str, tuple[str, bool]]]:
    """A query without its closing SETTINGS clause, and what that says, as if it had come with the query.

    The engine's read-only mode refuses every change inside a query, a server's some. A clause that is not understood
    stays, for the engine to refuse.
    """
    if not statement.is_query:
        return statement, {}
    tokens = list(tokenize(statement.body))
    place = next((i for i in range(len(tokens) - 1, 0, -1) if _begins_settings(tokens, i)), None)
    found = _pairs(tokens[place + 1 :]) if place is not None else None
    if place is None or found is None:
        return statement, {}
    body = statement.body[: tokens[place].start]
    return replace(statement, body=body, text=body), {name: (value, True) for name, value in found.items()}


def with_settings_told(statement: Statement, changeable: Iterable[str]) -> Statement:
    """A query that reads system.settings, told there which of them it may change although it is read-only.

    clickhouse-connect asks that when it opens, and then sends no setting that is called read-only.
    """
    tokens = list(tokenize(statement.body))
    names = ", ".join(literal(name) for name in sorted(changeable))
    told = f"(SELECT * REPLACE (if(name IN ({names}), 0, readonly) AS readonly) FROM system.settings)"
    body = statement.body
    for at in range(len(tokens) - 4, -1, -1):
        here, database, dot, table = tokens[at : at + 4]
        named = (database.text.strip('`"').lower(), table.text.strip('`"').lower()) == ("system", "settings")
        if named and here.upper in ("FROM", "JOIN") and dot.text == "." and dot.end == table.start:
            body = body[: database.start] + told + body[table.end :]
    return statement if body is statement.body else replace(statement, body=body, text=body)


def check_no_settings(statement: Statement) -> None:
    """What is left after lift_settings: of a subquery, or of a form that was not understood. Raises ServerError."""
    tokens = list(tokenize(statement.body))
    for here, after in zip(tokens, tokens[2:], strict=False):
        if here.upper == "SETTINGS" and after.text == "=":
            raise ServerError(READONLY, "Cannot modify settings inside a query in readonly mode")


def _begins_settings(tokens: list[Token], index: int) -> bool:
    here = tokens[index]
    return (
        here.upper == "SETTINGS"
        and here.depth == 0
        and tokens[index + 2 : index + 3] != []
        and (tokens[index + 2].text == "=")
    )


def _pairs(tokens: Sequence[Token]) -> dict[str, str] | None:
    """`a = 1, b = 'x'` by name; None when it is anything else."""
    found = dict[str, str]()
    rest = list(tokens)
    while rest:
        if len(rest) < 3 or rest[0].kind != "word" or rest[1].text != "=":
            return None
        minus = rest[2].text == "-" and len(rest) > 3
        value = rest[3] if minus else rest[2]
        if value.kind not in ("string", "number", "word"):
            return None
        text = value.text[1:-1].replace("\\'", "'").replace("\\\\", "\\") if value.text[0] == "'" else value.text
        found[rest[0].text] = f"-{text}" if minus else text
        rest = rest[4 if minus else 3 :]
        if rest and (rest.pop(0).text != "," or not rest):
            return None
    return found or None


def check_supported_native(statement: Statement) -> None:
    """INSERT INTO FUNCTION with rows has no place to describe itself. Raises ServerError."""
    if statement.verb == "INSERT" and statement.insert is None:
        tail = [token.upper for token in statement.tokens[-2:]]
        if "VALUES" in tail or "FORMAT" in tail:
            raise ServerError(NOT_IMPLEMENTED, "INSERT INTO FUNCTION with rows is not supported by this server")


def literal(value: str) -> str:
    """`value` as a quoted SQL string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
