"""Compressed frames of the native protocol: CityHash128 checksum, method, two sizes, payload.

LZ4 is what clickhouse-driver and ClickHouse's own client use unless told otherwise; "none" frames are legal as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import lz4.block
from clickhouse_cityhash.cityhash import CityHash128

from clearline.embedded.clickhouse.errors import (
    CHECKSUM_DOESNT_MATCH,
    INCORRECT_DATA,
    UNKNOWN_COMPRESSION_METHOD,
    ProtocolError,
)
from clearline.embedded.clickhouse.source import Source

LZ4: Final = 0x82
NONE: Final = 0x02
FRAME_BYTES_MAX: Final = 1 << 30  # ClickHouse's own limit for one frame
FRAME_BYTES: Final = 1 << 20  # what we cut to when we compress
_HEADER: Final = struct.Struct("<BII")
_HASH: Final = struct.Struct("<QQ")
_LOW64: Final = (1 << 64) - 1


def _checksum(data: bytes) -> bytes:
    digest: int = CityHash128(data)
    return _HASH.pack(digest >> 64, digest & _LOW64)


def compress(data: bytes | bytearray | memoryview) -> bytes:
    """`data` as LZ4 frames of at most FRAME_BYTES each."""
    view = memoryview(data)
    out: list[bytes] = []
    for start in range(0, len(view), FRAME_BYTES):
        piece = view[start : start + FRAME_BYTES]
        payload: bytes = lz4.block.compress(piece, store_size=False)
        body = _HEADER.pack(LZ4, len(payload) + _HEADER.size, len(piece)) + payload
        out.append(_checksum(body))
        out.append(body)
    return b"".join(out)


def read_frame(source: Source) -> bytes:
    """The content of the next frame. Raises ProtocolError for a bad checksum, size or method."""
    checksum = source.take(_HASH.size)
    header = source.take(_HEADER.size)
    method, packed, plain = _HEADER.unpack(header)
    if packed < _HEADER.size or packed > FRAME_BYTES_MAX or plain > FRAME_BYTES_MAX:
        raise ProtocolError(INCORRECT_DATA, f"a compressed frame of {packed} to {plain} bytes is too large")
    payload = source.take(packed - _HEADER.size)
    if _checksum(header + payload) != checksum:
        raise ProtocolError(CHECKSUM_DOESNT_MATCH, "checksum of a compressed frame does not match its data")
    if method == NONE:
        return payload
    if method != LZ4:
        raise ProtocolError(UNKNOWN_COMPRESSION_METHOD, f"compression method 0x{method:02x}: use lz4 or none")
    try:
        content: bytes = lz4.block.decompress(payload, uncompressed_size=plain)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise ProtocolError(INCORRECT_DATA, "a compressed frame does not unpack") from error
    if len(content) != plain:
        raise ProtocolError(INCORRECT_DATA, f"a frame holds {len(content)} bytes and says {plain}")
    return content


def plain_feed(source: Source) -> Callable[[], bytes]:
    """A feed of decompressed bytes, for a second Source on top of `source`."""

    def feed() -> bytes:
        while not (content := read_frame(source)):
            pass  # an empty frame is legal and is not the end of the stream
        return content

    return feed
