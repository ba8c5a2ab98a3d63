"""The protocol core of the development ClickHouse server, without sockets and without the engine.

clickhouse-driver's own writers and readers are the other side wherever bytes are compared: they are the peer that
proves the protocol. The conversation with a running server is in tests/contract.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import pytest
from clickhouse_driver import defines
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.bufferedreader import BufferedSocketReader
from clickhouse_driver.bufferedwriter import BufferedSocketWriter
from clickhouse_driver.connection import Connection
from clickhouse_driver.streams.native import BlockInputStream, BlockOutputStream
from hypothesis import given
from hypothesis import strategies as st

from clearline.embedded.clickhouse import blocks, frames, native, sql
from clearline.embedded.clickhouse.errors import EndOfInputError, ProtocolError, ServerError, from_engine
from clearline.embedded.clickhouse.source import Source, scan_strings, string, varint


def source_of(data: bytes, cuts: Iterable[int] = ()) -> Source:
    """A source that hands `data` out in pieces, cut at the given places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = iter([data[a:b] for a, b in itertools.pairwise(places)])
    return Source(lambda: next(pieces, b""))


# Numbers and strings


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 20)))
def test_varint_comes_back_however_it_is_cut(value: int, cuts: list[int]) -> None:
    assert source_of(varint(value), cuts).varint() == value


def test_endless_varint_is_refused() -> None:
    with pytest.raises(ProtocolError, match="more than 10 bytes"):
        source_of(b"\xff" * 20).varint()


def test_promised_but_absent_bytes_allocate_nothing() -> None:
    with pytest.raises(EndOfInputError):
        source_of(b"abc").take(1 << 40)


def test_long_string_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="a name of 70000 bytes"):
        source_of(varint(70_000)).string(65_536, "a name")


@given(st.lists(st.binary(max_size=300), max_size=60), st.lists(st.integers(0, 4_000), max_size=8))
def test_strings_are_copied_whole_however_they_are_cut(values: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(string, values))
    out: list[bytes] = []
    source = source_of(data + b"tail", cuts)
    source.copy_strings(len(values), out)
    assert b"".join(out) == data
    assert source.take(4) == b"tail"


@given(
    st.lists(st.tuples(st.integers(0, 140), st.integers(1, 700)), min_size=1, max_size=6),
    st.integers(0, 50),
    st.lists(st.integers(0, 200_000), max_size=4),
)
def test_runs_of_equal_lengths_are_counted_right(runs: list[tuple[int, int]], spare: int, cuts: list[int]) -> None:
    values = [b"\x05" * length for length, count in runs for _ in range(count)]
    data = b"".join(map(string, values))
    pos, left = scan_strings(data + b"\x05" * spare, 0, len(values))
    assert (pos, left) == (len(data), 0)
    out: list[bytes] = []
    source_of(data, cuts).copy_strings(len(values), out)
    assert b"".join(out) == data


# Frames


@given(st.binary(min_size=1, max_size=3_000), st.lists(st.integers(0, 3_000), max_size=5))
def test_frames_come_back(data: bytes, cuts: list[int]) -> None:
    assert frames.read_frame(source_of(frames.compress(data), cuts)) == data


def test_large_data_is_cut_into_frames_the_driver_reads() -> None:
    data = bytes(range(256)) * 10_000
    feed = frames.plain_feed(source_of(frames.compress(data)))
    assert [len(feed()) for _ in range(3)] == [1 << 20, 1 << 20, len(data) - (2 << 20)]


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(place: int, flip: int) -> None:
    frame = bytearray(frames.compress(b"a ledger is only worth what its checks are worth" * 3))
    frame[place % len(frame)] ^= flip
    with pytest.raises((ProtocolError, EndOfInputError)):
        frames.read_frame(source_of(bytes(frame)))


def test_oversized_frame_is_refused_by_its_header() -> None:
    header = bytes(16) + struct.pack("<BII", frames.LZ4, 1 << 31, 10)
    with pytest.raises(ProtocolError, match="too large"):
        frames.read_frame(source_of(header))


# Blocks, written and read by clickhouse-driver


def driver_reader(data: bytes) -> BufferedSocketReader:
    """The driver's reader over a socket that holds `data` and then ends."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(data)
    return BufferedSocketReader(theirs, 1 << 20)


def driver_context() -> Any:
    connection = Connection("127.0.0.1")
    context = connection.context
    context.client_settings = {
        "strings_as_bytes": False,
        "strings_encoding": "utf-8",
        "use_numpy": False,
        "opentelemetry_traceparent": None,
        "opentelemetry_tracestate": "",
        "quota_key": "",
        "input_format_null_as_default": False,
        "namedtuple_as_json": True,
        "server_side_params": False,
        "insert_block_size": 1_000,
    }

    context.settings = {}

    class Server:
        used_revision = defines.CLIENT_REVISION
        revision = defines.CLIENT_REVISION

        def version_tuple(self) -> tuple[int, int, int]:
            return 26, 9, 2

        def get_timezone(self) -> str:
            return "UTC"

    context.server_info = Server()
    return context


def driver_block(columns: list[tuple[str, str]], data: list[list[Any]]) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = BufferedSocketWriter(theirs, 1 << 20)
        BlockOutputStream(writer, driver_context()).write(ColumnOrientedBlock(columns, data))
        writer.flush()
        theirs.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: ours.recv(1 << 16), b""))


TYPES: list[tuple[str, list[Any]]] = [
    ("UInt8", [1, 2, 255]),
    ("Int64", [-(2**63), 0, 2**63 - 1]),
    ("Int128", [-(2**127), 0, 2**127 - 1]),
    ("UInt256", [0, 1, 2**256 - 1]),
    ("Float64", [0.5, -1.25, 1e300]),
    ("Bool", [True, False, True]),
    ("String", ["", "a", "ж" * 200]),
    ("FixedString(4)", ["abcd", "x", ""]),
    ("Enum8('D' = 1, 'C, (x)' = 2)", ["D", "C, (x)", "D"]),
    ("Nullable(Int32)", [None, 5, None]),
    ("Nullable(String)", ["a", None, "c"]),
    ("Array(String)", [["a", "bb"], [], ["c"]]),
    ("Array(Array(UInt16))", [[[1, 2], []], [], [[3]]]),
    ("Array(Nullable(UInt8))", [[1, None], [], [None]]),
    ("Map(String, UInt64)", [{"a": 1}, {}, {"b": 2, "c": 3}]),
    ("Tuple(UInt8, String)", [(1, "a"), (2, "b"), (3, "c")]),
    ("Array(Tuple(UInt8, Array(String)))", [[(1, ["x"])], [], [(2, []), (3, ["y", "z"])]]),
    ("LowCardinality(String)", ["CNY", "USD", "CNY"]),
    ("LowCardinality(Nullable(String))", ["CNY", None, "CNY"]),
    ("Array(LowCardinality(String))", [["a", "b"], [], ["a"]]),
    ("Map(LowCardinality(String), String)", [{"a": "x"}, {}, {"b": "y"}]),
    ("SimpleAggregateFunction(sum, Int64)", [1, 2, 3]),
]


@pytest.mark.parametrize(("type_", "values"), TYPES, ids=[type_ for type_, _ in TYPES])
def test_driver_blocks_pass_both_ways(type_: str, values: list[Any]) -> None:
    columns = [("first", type_), ("second", "UInt8")]
    wire = driver_block(columns, [deepcopy(values), [7, 8, 9]])  # the driver replaces values in place
    source = source_of(wire, cuts=range(0, len(wire), 7))
    blocks.skip_block_info(source)
    plain: list[bytes] = []
    head = blocks.copy_block(source, plain, from_custom=True, to_custom=False)
    assert head == blocks.Head(tuple(columns), 3)
    assert source.at_end()

    again: list[bytes] = []
    blocks.copy_block(source_of(b"".join(plain)), again, from_custom=False, to_custom=True)
    assert blocks.block_info() + b"".join(again) == wire
    block = BlockInputStream(driver_reader(wire), driver_context()).read()
    assert list(block.get_column_by_index(0)) == values


@pytest.mark.parametrize(
    "type_",
    [
        "AggregateFunction(sum, UInt64)",
        "Dynamic",
        "Object('json')",
        "Unheard",
        "Decimal(200, 2)",
        "Array()",
        "FixedString(x)",
    ],
)
def test_unknown_types_are_named(type_: str) -> None:
    with pytest.raises(ProtocolError, match="type ") as caught:
        blocks.layout(type_)
    assert type_ in str(caught.value) or "malformed" in str(caught.value)
    assert caught.value.code == 50


@pytest.mark.parametrize(
    ("type_", "parts"),
    [
        ("Map(String, Array(UInt8))", ["String", "Array(UInt8)"]),
        ("Tuple(a UInt8, `b, (` String)", ["a UInt8", "`b, (` String"]),
        ("Enum8('it\\'s, (' = 1, 'b' = 2)", ["'it\\'s, (' = 1", "'b' = 2"]),
        ("UInt8", []),
    ],
)
def test_type_arguments_respect_quotes(type_: str, parts: list[str]) -> None:
    assert blocks.split_arguments(type_) == parts


def test_named_tuples_are_as_wide_as_their_types() -> None:
    out: list[bytes] = []
    named = blocks.layout("Tuple(id UInt64, `odd name` Nullable(Decimal(10, 2)), at DateTime64(3, 'UTC'))")
    named.data(source_of(bytes(2 * (8 + 9 + 8))), 2, out)
    assert sum(map(len, out)) == 50


@pytest.mark.parametrize(("columns", "rows"), [(10_001, 1), (1, 1 << 40)])
def test_too_large_blocks_are_refused(columns: int, rows: int) -> None:
    with pytest.raises(ProtocolError, match="too large"):
        blocks.copy_block(source_of(varint(columns) + varint(rows)), [], from_custom=True, to_custom=False)


def test_sparse_columns_are_refused() -> None:
    data = varint(1) + varint(1) + string("a") + string("UInt8") + b"\x01"
    with pytest.raises(ProtocolError, match="sparse"):
        blocks.copy_block(source_of(data), [], from_custom=True, to_custom=False)


# Packets and states


def hello(revision: int = native.REVISION, user: str = "default") -> bytes:
    numbers = varint(20) + varint(10) + varint(revision)
    return varint(native.HELLO) + string("test") + numbers + string("db") + string(user) + string("")


def empty_block() -> bytes:
    return varint(native.DATA) + string("") + blocks.block_info() + varint(0) + varint(0)


def query(text: str, settings: dict[str, str] | None = None) -> bytes:
    """A query as the oldest revision sends it, without client information."""
    said = b"".join(string(name) + b"\x00" + string(value) for name, value in (settings or {}).items())
    return varint(native.QUERY) + string("id-1") + b"\x00" + said + string("") + varint(2) + varint(0) + string(text)


def test_a_conversation_goes_through_its_states() -> None:
    revision = native.REVISION_MIN
    data = hello(revision) + varint(native.PING) + query("SELECT 1", {"max_threads": "1"}) + empty_block()
    protocol = native.NativeProtocol(source_of(data, cuts=range(0, 400, 3)))
    packets: list[native.Packet] = []
    states = []
    for _ in range(4):
        packets.append(protocol.read())
        states.append(protocol.state)
    assert packets[:3] == [
        native.Hello("test", revision, "db", "default", ""),
        native.Ping(),
        native.Query("id-1", "SELECT 1", False, {"max_threads": ("1", False)}, {}),
    ]
    assert isinstance(packets[3], native.Data)
    assert states == [native.State.IDLE, native.State.IDLE, native.State.TABLES, native.State.IDLE]
    with pytest.raises(EndOfInputError):
        protocol.read()


OUT_OF_TURN = [(state, kind) for state in native.State for kind in range(12) if kind not in native.MOVES[state]]


@pytest.mark.parametrize(("state", "kind"), OUT_OF_TURN)
def test_packets_out_of_turn_end_the_conversation(state: native.State, kind: int) -> None:
    protocol = native.NativeProtocol(source_of(varint(kind) + bytes(100)))
    protocol.state = state
    with pytest.raises(ProtocolError) as caught:
        protocol.read()
    assert caught.value.code == (101 if kind <= native.PING else 99)


def test_old_clients_are_told() -> None:
    with pytest.raises(ProtocolError, match="older than"):
        native.NativeProtocol(source_of(hello(54_058))).read()


@given(st.binary(max_size=400))
def test_random_bytes_only_ever_end_the_conversation(data: bytes) -> None:
    protocol = native.NativeProtocol(source_of(hello() + data, cuts=range(0, 400, 11)))

    def read_all() -> None:
        for _ in range(500):
            protocol.read()

    with pytest.raises((ProtocolError, EndOfInputError)):
        read_all()


@pytest.mark.parametrize("revision", [54_429, 54_441, 54_453, 54_454, 54_458, 54_460, 54_463, 54_468])
def test_the_driver_reads_what_we_say(revision: int) -> None:
    protocol = native.NativeProtocol(source_of(hello(revision)))
    protocol.read()
    connection = Connection("127.0.0.1", client_revision=revision)
    connection.context.client_settings = driver_context().client_settings
    connection.host, connection.port = "127.0.0.1", 0
    connection.fin = driver_reader(
        protocol.hello((26, 9, 2), "UTC", "dev")
        + protocol.header([("a", "UInt8"), ("b", "LowCardinality(String)")])
        + protocol.progress(5, 6, 7)
        + protocol.profile(1, 2, 3)
        + protocol.exception(ServerError(60, "Unknown table"))
        + protocol.end()
    )
    connection.receive_hello()
    assert connection.server_info.used_revision == revision
    assert connection.server_info.display_name == "dev"
    assert connection.server_info.version_tuple() == (26, 9, 2)
    connection.block_in = connection.block_in_raw = BlockInputStream(connection.fin, connection.context)
    packets = [connection.receive_packet() for _ in range(5)]
    assert [packet.type for packet in packets] == [1, 3, 6, 2, 5]
    assert packets[0].block.columns_with_types == [("a", "UInt8"), ("b", "LowCardinality(String)")]
    assert (packets[1].progress.rows, packets[1].progress.bytes) == (5, 6)
    assert (packets[2].profile_info.rows, packets[2].profile_info.blocks) == (1, 2)
    assert packets[3].exception.code == 60
    assert "Unknown table" in packets[3].exception.message


@pytest.mark.parametrize(
    ("quoted", "value"),
    [("'abc'", "abc"), ("'it\\'s'", "it's"), ("'a\\\\tb'", "a\\tb"), ("'[1, 2]'", "[1, 2]"), ("7", "7"), ("''", "")],
)
def test_parameters_lose_their_quotes(quoted: str, value: str) -> None:
    assert native.unquote(quoted) == value


def test_http_bodies_follow_the_revision() -> None:
    plain = varint(1) + varint(1) + string("a") + string("UInt8") + b"\x07"
    assert native.body(plain, 0) == plain
    assert native.body(plain, 54_405) == blocks.block_info() + plain
    assert native.body(plain, 54_454) == blocks.block_info() + plain[:-1] + b"\x00\x07"


# Statements


@pytest.mark.parametrize(
    ("text", "target", "columns", "format_", "data"),
    [
        ("INSERT INTO t VALUES", "t", "", "Values", ""),
        ("insert into t values (1), (2);", "t", "", "Values", "(1), (2)"),
        ("INSERT INTO `my db`.`t(`(`a,`, b) VALUES", "`my db`.`t(`", "(`a,`, b)", "Values", ""),
        ("/* c */ INSERT INTO TABLE db.t (a) FORMAT Native", "db.t", "(a)", "Native", ""),
        ("INSERT t (* EXCEPT(a)) SETTINGS x = 1, y = 'v' VALUES", "t", "(* EXCEPT(a))", "Values", ""),
        ('INSERT INTO t FORMAT JSONEachRow {"a": 1}', "t", "", "JSONEachRow", '{"a": 1}'),
        ("-- why\nINSERT INTO t\nVALUES -- rows\n", "t", "", "Values", "-- rows"),
    ],
)
def test_inserts_are_taken_apart(text: str, target: str, columns: str, format_: str, data: str) -> None:
    statement = sql.inspect(text)
    assert statement.insert is not None
    found = statement.insert
    assert (found.target, found.columns, found.format) == (target, columns, format_)
    assert sql.inline_data(statement) == data


def test_insert_settings_are_kept() -> None:
    insert = sql.inspect("INSERT INTO t SETTINGS x = 1, y = 'v' VALUES").insert
    assert insert is not None
    text = insert.from_file("/f", "Native", "z = 2")
    assert text == "INSERT INTO t  FROM INFILE '/f' SETTINGS x = 1, y = 'v', z = 2 FORMAT Native"


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t SELECT 1",
        "INSERT INTO t (a) SELECT 1",
        "INSERT INTO t (SELECT 1)",
        "INSERT INTO t WITH 1 AS x SELECT x",
    ],
)
def test_insert_select_is_the_engines(text: str) -> None:
    statement = sql.inspect(text)
    assert (statement.verb, statement.insert) == ("INSERT", None)


@pytest.mark.parametrize(
    ("text", "format_", "body"),
    [
        ("SELECT 1 FORMAT JSON", "JSON", "SELECT 1 "),
        ("SELECT 1 format CSV;", "CSV", "SELECT 1 "),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "CSV", "SELECT 1  SETTINGS max_threads = 1"),
        ("SELECT 'x FORMAT JSON'", None, "SELECT 'x FORMAT JSON'"),
        ("SELECT format FROM t", None, "SELECT format FROM t"),
        ("SELECT 1 -- FORMAT JSON", None, "SELECT 1 -- FORMAT JSON"),
        ("SELECT 1 AS format", None, "SELECT 1 AS format"),
        ("ALTER TABLE t ADD COLUMN format String", None, "ALTER TABLE t ADD COLUMN format String"),
    ],
)
def test_format_clause_is_found(text: str, format_: str | None, body: str) -> None:
    statement = sql.inspect(text)
    assert (statement.format, statement.body) == (format_, body)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 62),
        (" ; ", 62),
        ("-- nothing", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", 358),
        ("INSERT INTO t FROM INFILE 'x' FORMAT CSV", 78),
        ("INSERT INTO t", 62),
    ],
)
def test_what_a_server_does_not_do(text: str, code: int) -> None:
    with pytest.raises(ServerError) as caught:
        sql.inspect(text)
    assert caught.value.code == code


ALLOWED = [
    "SELECT 1",
    "WITH 1 AS file SELECT file",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "SHOW TABLES",
    "DESCRIBE TABLE t",
    "EXPLAIN SELECT 1",
    "SELECT 'file(x)'",
    "SELECT count() FROM t WHERE partner = 'acme/shop-17'",
    "SELECT a AS `debit/credit` FROM t",
    "SELECT t.`debit/credit` FROM t",
    "SET max_execution_time = 5",
    "USE ledger",
    "SELECT sum(x) FROM numbers(10)",
]
REFUSED = [
    "INSERT INTO t VALUES",
    "CREATE TABLE t (a Int8) ENGINE = Memory",
    "DROP TABLE t",
    "ALTER TABLE t DELETE WHERE 1",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "TRUNCATE TABLE t",
    "OPTIMIZE TABLE t",
    "RENAME TABLE a TO b",
    "GRANT ALL ON *.* TO x",
    "ATTACH TABLE t",
    "BACKUP TABLE t TO Disk('x')",
    "SELECT * FROM file('/etc/passwd')",
    "SELECT file('/etc/passwd')",
    "SELECT * FROM File ('/etc/passwd')",
    "SELECT * FROM `file`('/etc/passwd')",
    "SELECT * FROM /* x */ url /* y */ ('http://x')",
    "DESCRIBE TABLE remote('x', 'y')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM default.`/etc/passwd`",
    "SELECT 1 IN (SELECT * FROM executable('x', TSV, 'a String'))",
    "SELECT * FROM python(x)",
]


@pytest.mark.parametrize("text", ALLOWED)
def test_readers_may(text: str) -> None:
    sql.check_read_only(sql.inspect(text))


@pytest.mark.parametrize("text", REFUSED)
def test_readers_may_not(text: str) -> None:
    with pytest.raises(ServerError) as caught:
        sql.check_read_only(sql.inspect(text))
    assert caught.value.code == 164
    assert "readonly mode" in caught.value.message


@pytest.mark.parametrize(
    ("text", "has"), [("SELECT a FROM t GROUP BY a WITH TOTALS", True), ("SELECT 'WITH TOTALS'", False)]
)
def test_totals_are_seen(text: str, has: bool) -> None:
    assert sql.inspect(text).has_totals is has


# Errors


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("Code: 60. DB::Exception: No table x. (UNKNOWN_TABLE)", 60, "DB::Exception: No table x. (UNKNOWN_TABLE)"),
        ("Streaming query failed: Code: 47. DB::Exception: y. (Z)", 47, "DB::Exception: y. (Z)"),
        ("Code: 27. DB::Exception: a (B) (version 26.9.2.1)", 27, "DB::Exception: a (B)"),
        ("something else", 1002, "DB::Exception: something else (UNKNOWN_EXCEPTION)"),
    ],
)
def test_engine_errors_become_clickhouse_errors(text: str, code: int, message: str) -> None:
    error = from_engine(RuntimeError(text))
    assert (error.code, error.message) == (code, message)


def test_identifiers_and_literals_are_quoted() -> None:
    cases: list[tuple[Callable[[str], str], str, str]] = [
        (sql.literal, "it's \\ here", "'it\\'s \\\\ here'"),
        (sql.identifier, "a`b", "`a\\`b`"),
    ]
    for quote, value, quoted in cases:
        assert quote(value) == quoted
