"""A pull reader over chunks of bytes. It knows no socket: whoever builds it says where the next chunk comes from.

Everything a ClickHouse client sends is read through here, so this is also where lengths are bounded: nothing is
allocated because a peer promised it, only because it arrived.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from clearline.embedded.clickhouse.errors import INCORRECT_DATA, EndOfInputError, ProtocolError

VARINT_BYTES_MAX: Final = 10
STRING_BYTES_MAX: Final = 1 << 30
_RUN: Final = 256
_U64: Final = struct.Struct("<Q")


class Source:
    """Reads numbers, strings and runs of strings from `feed()`, which returns b"" at the end of the stream."""

    def __init__(self, feed: Callable[[], bytes]) -> None:
        self._feed = feed
        self._chunk = b""
        self._pos = 0

    @property
    def buffered(self) -> int:
        """Bytes that can be read without asking for more."""
        return len(self._chunk) - self._pos

    def peek_buffered(self) -> int | None:
        """The next byte if it has arrived already, else None. Never waits."""
        return self._chunk[self._pos] if self._pos < len(self._chunk) else None

    def at_end(self) -> bool:
        """True when the stream ended cleanly, between two items. Waits for the next chunk otherwise."""
        if self._pos < len(self._chunk):
            return False
        self._chunk, self._pos = self._feed(), 0
        return not self._chunk

    def byte(self) -> int:
        """One unsigned byte. Raises EndOfInputError."""
        if self._pos >= len(self._chunk):
            self._refill()
        value = self._chunk[self._pos]
        self._pos += 1
        return value

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises EndOfInputError."""
        pos = self._pos
        if pos + count <= len(self._chunk):
            self._pos = pos + count
            return self._chunk[pos : self._pos]
        pieces = [self._chunk[pos:]]
        missing = count - len(pieces[0])
        self._chunk, self._pos = b"", 0
        while missing:
            self._refill()
            piece = self._chunk[:missing]
            self._pos = len(piece)
            missing -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def varint(self) -> int:
        """An unsigned LEB128 number of at most 64 bits. Raises ProtocolError."""
        value = shift = 0
        for _ in range(VARINT_BYTES_MAX):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ProtocolError(INCORRECT_DATA, "a variable-length number has more than 10 bytes")

    def u64(self) -> int:
        """A little-endian 64-bit number."""
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def string(self, bytes_max: int, what: str) -> bytes:
        """A length-prefixed string of at most `bytes_max` bytes; `what` names it in the error."""
        length = self.varint()
        if length > bytes_max:
            raise ProtocolError(INCORRECT_DATA, f"{what} of {length} bytes is longer than the {bytes_max} allowed")
        return self.take(length)

    def text(self, bytes_max: int, what: str) -> str:
        """The same, as UTF-8."""
        try:
            return self.string(bytes_max, what).decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(INCORRECT_DATA, f"{what} is not UTF-8") from error

    def copy_strings(self, count: int, out: list[bytes]) -> None:
        """Copy `count` length-prefixed strings to `out` without taking them apart."""
        while count:
            start = self._pos
            self._pos, count = scan_strings(self._chunk, start, count)
            if self._pos > start:
                out.append(self._chunk[start : self._pos])
            if count:  # the next string straddles the chunk's end
                length = self.varint()
                if length > STRING_BYTES_MAX:
                    raise ProtocolError(INCORRECT_DATA, f"a string value of {length} bytes is too long")
                out.append(varint(length))
                out.append(self.take(length))
                count -= 1

    def _refill(self) -> None:
        self._chunk, self._pos = self._feed(), 0
        if not self._chunk:
            raise EndOfInputError


def varint(value: int) -> bytes:
    """`value` >= 0 as LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(value: str | bytes) -> bytes:
    """A length-prefixed string."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


def scan_strings(buffer: bytes, pos: int, count: int) -> tuple[int, int]:
    """Walk up to `count` strings that lie wholly in `buffer`, from `pos`: the new position, and how many are left.

    Columns of ids and codes hold thousands of strings of one length, so a stretch of equal lengths is checked by numpy
    at once; anything else goes string by string.
    """
    end = len(buffer)
    while count and pos < end:
        run = _equal_run(buffer, pos, end, count)
        if run:
            pos += run * (buffer[pos] + 1)
            count -= run
            continue
        batch = min(count, _RUN)
        pos, left = _walk_strings(buffer, pos, end, batch)
        count -= batch - left
        if left:
            break
    return pos, count


def _equal_run(buffer: bytes, pos: int, end: int, count: int) -> int:
    """How many strings from `pos` on have the length of the first, if that is at least _RUN; else 0."""
    length = buffer[pos]
    stride = length + 1
    if length > 0x7F or count < _RUN or pos + _RUN * stride > end:
        return 0
    if (np.frombuffer(buffer, np.uint8, _RUN * stride, pos)[::stride] != length).any():
        return 0
    size = min(count, (end - pos) // stride)
    differs = np.frombuffer(buffer, np.uint8, size * stride, pos)[::stride] != length
    first = int(differs.argmax())
    return first if differs[first] else size


def _walk_strings(buffer: bytes, pos: int, end: int, count: int) -> tuple[int, int]:
    while count:
        if pos >= end:
            break
        length = buffer[pos]
        after = pos + 1
        if length > 0x7F:
            length &= 0x7F
            shift = 7
            while after < end:
                byte = buffer[after]
                after += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            else:
                break
            if shift > 70:
                raise ProtocolError(INCORRECT_DATA, "a string's length has more than 10 bytes")
        after += length
        if after > end:
            break
        pos = after
        count -= 1
    return pos, count
