"""ClickHouse's native protocol, server side: packets and states, without any I/O.

The caller hands in a Source and gets packets; it asks for answers and gets bytes. Which packet may follow which is the
table MOVES. Written from the protocol as clickhouse-driver speaks it, whose highest revision is the one announced here;
a client with a lower revision gets the older forms.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

from clearline.embedded.clickhouse import frames
from clearline.embedded.clickhouse.blocks import Head, block_info, copy_block, header_block, skip_block_info
from clearline.embedded.clickhouse.errors import (
    INCORRECT_DATA,
    UNEXPECTED_PACKET_FROM_CLIENT,
    UNKNOWN_PACKET_FROM_CLIENT,
    ProtocolError,
    ServerError,
)
from clearline.embedded.clickhouse.source import Source, string, varint

REVISION: Final = 54468
REVISION_MIN: Final = 54429  # settings as strings; every driver since 2019

WITH_BLOCK_INFO: Final = 51903
WITH_INTERSERVER_SECRET: Final = 54441
WITH_OPENTELEMETRY: Final = 54442
WITH_DISTRIBUTED_DEPTH: Final = 54448
WITH_QUERY_START_TIME: Final = 54449
WITH_PARALLEL_REPLICAS: Final = 54453
WITH_CUSTOM_SERIALIZATION: Final = 54454
WITH_PROFILE_EVENTS_IN_INSERT: Final = 54456
WITH_ADDENDUM: Final = 54458
WITH_PARAMETERS: Final = 54459
WITH_QUERY_TIME_IN_PROGRESS: Final = 54460
WITH_PASSWORD_RULES: Final = 54461
WITH_NONCE: Final = 54462
WITH_TOTAL_BYTES: Final = 54463

NAME_BYTES_MAX: Final = 1 << 16
QUERY_BYTES_MAX: Final = 64 << 20
SETTINGS_MAX: Final = 2_000
IMPORTANT: Final = 0x01

HELLO, QUERY, DATA, CANCEL, PING = range(5)  # what a client sends
_REPLY: Final = {
    "hello": 0,
    "data": 1,
    "exception": 2,
    "progress": 3,
    "pong": 4,
    "end": 5,
    "profile": 6,
    "totals": 7,
    "extremes": 8,
    "events": 14,
}
_EVENT_COLUMNS: Final = [
    ("host_name", "String"),
    ("current_time", "DateTime"),
    ("thread_id", "UInt64"),
    ("type", "Enum8('increment' = 1, 'gauge' = 2)"),
    ("name", "String"),
    ("value", "Int64"),
]


class State(enum.Enum):
    """Where the conversation is."""

    GREETING = "before hello"
    IDLE = "between queries"
    TABLES = "external tables, up to an empty block"
    ROWS = "rows of an INSERT, up to an empty block"


MOVES: Final[dict[State, dict[int, State]]] = {
    State.GREETING: {HELLO: State.IDLE},
    # A stray empty block or a late cancel is what is left of a query that failed early.
    State.IDLE: {QUERY: State.TABLES, PING: State.IDLE, CANCEL: State.IDLE, DATA: State.IDLE},
    State.TABLES: {DATA: State.TABLES, CANCEL: State.IDLE},
    State.ROWS: {DATA: State.ROWS, CANCEL: State.IDLE},
}


@dataclass(frozen=True, slots=True)
class Hello:
    """A client introduces itself."""

    client: str
    revision: int
    database: str
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with the settings and parameters it came with."""

    query_id: str
    text: str
    compressed: bool
    settings: dict[str, tuple[str, bool]]  # name -> value, and whether an unknown name is an error
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    """A block; `content` is Native format of revision 0, as the engine reads it."""

    table: str
    head: Head
    content: list[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client does not want the rest."""


@dataclass(frozen=True, slots=True)
class Ping:
    """The client asks whether somebody is there."""


Packet = Hello | Query | Data | Cancel | Ping


class NativeProtocol:
    """One connection's protocol state."""

    def __init__(self, source: Source) -> None:
        self.state = State.GREETING
        self.revision = REVISION
        self.compressed = False
        self._source = source
        self._plain = Source(frames.plain_feed(source))

    # What the client says

    def read(self) -> Packet:
        """The next packet. Raises EndOfInputError, and ProtocolError after which the connection must be closed."""
        kind = self._source.varint()
        if kind > PING:
            raise ProtocolError(UNKNOWN_PACKET_FROM_CLIENT, f"Unknown packet {kind} from client")
        after = MOVES[self.state].get(kind)
        if after is None:
            raise ProtocolError(
                UNEXPECTED_PACKET_FROM_CLIENT, f"Unexpected packet {kind} from client, {self.state.value}"
            )
        packet: Packet
        match kind:
            case 0:
                packet = self._hello()
            case 1:
                packet = self._query()
            case 2:
                packet = self._data()
                if packet.head.rows == 0 and not packet.table:
                    after = State.IDLE
            case 3:
                packet = Cancel()
            case _:
                packet = Ping()
        self.state = after
        return packet

    def expect_rows(self) -> None:
        """An INSERT was accepted: blocks of rows follow."""
        self.state = State.ROWS

    def read_addendum(self) -> None:
        """What newer clients send after our hello: the quota key, unused."""
        if self.revision >= WITH_ADDENDUM:
            self._source.string(NAME_BYTES_MAX, "quota key")

    def _hello(self) -> Hello:
        read = self._source
        client = read.text(NAME_BYTES_MAX, "client name")
        read.varint(), read.varint()
        revision = read.varint()
        if revision < REVISION_MIN:
            raise ProtocolError(INCORRECT_DATA, f"client revision {revision} is older than {REVISION_MIN}")
        self.revision = min(revision, REVISION)
        database, user, password = (read.text(NAME_BYTES_MAX, what) for what in ("database", "user", "password"))
        return Hello(client, revision, database, user, password)

    def _query(self) -> Query:
        read = self._source
        query_id = read.text(NAME_BYTES_MAX, "query id")
        if read.byte():  # 0 = no client information
            self._skip_client_info()
        settings = self._settings()
        if self.revision >= WITH_INTERSERVER_SECRET:
            read.string(NAME_BYTES_MAX, "secret")
        read.varint()  # up to which stage: always the last, this server is not a shard
        self.compressed = read.varint() != 0
        text = read.text(QUERY_BYTES_MAX, "query")
        parameters = self._settings() if self.revision >= WITH_PARAMETERS else {}
        return Query(
            query_id,
            text,
            self.compressed,
            settings,
            {name: unquote(value) for name, (value, _) in parameters.items()},
        )

    def _skip_client_info(self) -> None:
        read, revision = self._source, self.revision
        for what in ("initial user", "initial query id", "initial address"):
            read.string(NAME_BYTES_MAX, what)
        if revision >= WITH_QUERY_START_TIME:
            read.take(8)
        if read.byte() != 1:
            raise ProtocolError(INCORRECT_DATA, "client information is not of a TCP client")
        for what in ("os user", "host name", "client name"):
            read.string(NAME_BYTES_MAX, what)
        read.varint(), read.varint(), read.varint()
        read.string(NAME_BYTES_MAX, "quota key")
        if revision >= WITH_DISTRIBUTED_DEPTH:
            read.varint()
        read.varint()  # client patch version
        if revision >= WITH_OPENTELEMETRY and read.byte():
            read.take(16 + 8)
            read.string(NAME_BYTES_MAX, "trace state")
            read.take(1)
        if revision >= WITH_PARALLEL_REPLICAS:
            read.varint(), read.varint(), read.varint()

    def _settings(self) -> dict[str, tuple[str, bool]]:
        read = self._source
        found: dict[str, tuple[str, bool]] = {}
        while name := read.text(NAME_BYTES_MAX, "setting name"):
            flags = read.varint()
            found[name] = (read.text(QUERY_BYTES_MAX, "setting value"), bool(flags & IMPORTANT))
            if len(found) > SETTINGS_MAX:
                raise ProtocolError(INCORRECT_DATA, f"more than {SETTINGS_MAX} settings")
        return found

    def _data(self) -> Data:
        table = self._source.text(NAME_BYTES_MAX, "table name")
        read = self._plain if self.compressed else self._source
        skip_block_info(read)
        content: list[bytes] = []
        head = copy_block(read, content, from_custom=self._custom, to_custom=False)
        return Data(table, head, content)

    # What the server says

    @property
    def _custom(self) -> bool:
        return self.revision >= WITH_CUSTOM_SERIALIZATION

    def hello(self, version: tuple[int, int, int], timezone: str, display_name: str) -> bytes:
        """Accept the client."""
        parts = [
            varint(_REPLY["hello"]),
            string("ClickHouse"),
            *map(varint, (version[0], version[1], REVISION)),
            string(timezone),
            string(display_name),
            varint(version[2]),
        ]
        if self.revision >= WITH_PASSWORD_RULES:
            parts.append(varint(0))
        if self.revision >= WITH_NONCE:
            parts.append(bytes(8))
        return b"".join(parts)

    def exception(self, error: ServerError) -> bytes:
        """A refusal: code, name, message, empty stack trace, no nested exception."""
        self_contained = struct.pack("<Bi", _REPLY["exception"], error.code)
        return self_contained + string("DB::Exception") + string(error.message) + string("") + b"\x00"

    def header(self, columns: list[tuple[str, str]]) -> bytes:
        """A block of names and types without rows."""
        return self._block("data", header_block(columns, self._custom))

    def blocks(self, native: bytes, kind: str = "data", with_header: bool = False) -> list[bytes]:
        """The engine's Native output as packets, one per block. Raises ProtocolError for a type it cannot carry.

        A result begins with a block that has no rows: that is where a client takes names and types from.
        """
        chunks = iter((native, b""))
        read = Source(lambda: next(chunks, b""))
        packets: list[bytes] = []
        while not read.at_end():
            out: list[bytes] = []
            head = copy_block(read, out, from_custom=False, to_custom=self._custom)
            if with_header and not packets:
                packets.append(self.header(list(head.columns)))
            packets.append(self._block(kind, b"".join(out)))
        return packets

    def _block(self, kind: str, block: bytes) -> bytes:
        body = block_info() + block
        return varint(_REPLY[kind]) + string("") + (frames.compress(body) if self.compressed else body)

    def progress(self, rows: int, size: int, elapsed_ns: int) -> bytes:
        """Rows and bytes read so far, nothing written."""
        parts = [_REPLY["progress"], rows, size, 0]
        if self.revision >= WITH_TOTAL_BYTES:
            parts.append(0)
        parts += [0, 0]
        if self.revision >= WITH_QUERY_TIME_IN_PROGRESS:
            parts.append(elapsed_ns)
        return b"".join(map(varint, parts))

    def profile(self, rows: int, blocks: int, size: int) -> bytes:
        """Totals of a finished result; LIMIT is not tracked."""
        return b"".join(map(varint, (_REPLY["profile"], rows, blocks, size))) + b"\x00" + varint(0) + b"\x00"

    def block_received(self) -> bytes:
        """Newer clients wait for this after every block of an INSERT: profile events (none), never compressed."""
        if self.revision < WITH_PROFILE_EVENTS_IN_INSERT:
            return b""
        return varint(_REPLY["events"]) + string("") + block_info() + header_block(_EVENT_COLUMNS, self._custom)

    def pong(self) -> bytes:
        """Somebody is there."""
        return varint(_REPLY["pong"])

    def end(self) -> bytes:
        """The query is done."""
        return varint(_REPLY["end"])


def body(content: bytes, revision: int) -> bytes:
    """The engine's Native output as an HTTP client of `revision` reads it; 0 is the plain format."""
    if revision < WITH_BLOCK_INFO:
        return content
    chunks = iter((content,))
    read, out = Source(lambda: next(chunks, b"")), list[bytes]()
    while not read.at_end():
        out.append(block_info())
        copy_block(read, out, from_custom=False, to_custom=revision >= WITH_CUSTOM_SERIALIZATION)
    return b"".join(out)


_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "a": "\a", "v": "\v"}


def unquote(value: str) -> str:
    """A parameter arrives as a quoted literal; the engine wants what is inside the quotes."""
    if len(value) < 2 or value[0] != "'" or value[-1] != "'":
        return value
    out, inner = [], iter(value[1:-1])
    for char in inner:
        if char == "\\":
            char = next(inner, "")
            char = _ESCAPES.get(char, char)
        out.append(char)
    return "".join(out)
