"""The errors a client of the development server can see: ClickHouse's own codes and names, never a traceback."""

from __future__ import annotations

import re
from typing import Final

BAD_ARGUMENTS: Final = 36
CHECKSUM_DOESNT_MATCH: Final = 40
NOT_IMPLEMENTED: Final = 48
UNKNOWN_TYPE: Final = 50
SYNTAX_ERROR: Final = 62
QUERY_NOT_ALLOWED: Final = 78
UNKNOWN_DATABASE: Final = 81
UNKNOWN_COMPRESSION_METHOD: Final = 89
UNKNOWN_PACKET_FROM_CLIENT: Final = 99
UNEXPECTED_PACKET_FROM_CLIENT: Final = 101
UNKNOWN_SETTING: Final = 115
INCORRECT_DATA: Final = 117
READONLY: Final = 164
QUOTA_EXCEEDED: Final = 201
TOO_MANY_CONNECTIONS: Final = 202
MEMORY_LIMIT_EXCEEDED: Final = 241
INTO_OUTFILE_NOT_ALLOWED: Final = 358
SESSION_IS_LOCKED: Final = 373
QUERY_WAS_CANCELLED: Final = 394
SETTING_CONSTRAINT_VIOLATION: Final = 452
ACCESS_DENIED: Final = 497
AUTHENTICATION_FAILED: Final = 516
UNKNOWN_EXCEPTION: Final = 1002

_NAMES: Final[dict[int, str]] = {
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    CHECKSUM_DOESNT_MATCH: "CHECKSUM_DOESNT_MATCH",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    UNKNOWN_TYPE: "UNKNOWN_TYPE",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    QUERY_NOT_ALLOWED: "UNKNOWN_TYPE_OF_QUERY",
    UNKNOWN_COMPRESSION_METHOD: "UNKNOWN_COMPRESSION_METHOD",
    UNKNOWN_PACKET_FROM_CLIENT: "UNKNOWN_PACKET_FROM_CLIENT",
    UNEXPECTED_PACKET_FROM_CLIENT: "UNEXPECTED_PACKET_FROM_CLIENT",
    UNKNOWN_DATABASE: "UNKNOWN_DATABASE",
    UNKNOWN_SETTING: "UNKNOWN_SETTING",
    INCORRECT_DATA: "INCORRECT_DATA",
    READONLY: "READONLY",
    QUOTA_EXCEEDED: "QUOTA_EXCEEDED",
    TOO_MANY_CONNECTIONS: "TOO_MANY_SIMULTANEOUS_QUERIES",
    MEMORY_LIMIT_EXCEEDED: "MEMORY_LIMIT_EXCEEDED",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    QUERY_WAS_CANCELLED: "QUERY_WAS_CANCELLED",
    SETTING_CONSTRAINT_VIOLATION: "SETTING_CONSTRAINT_VIOLATION",
    ACCESS_DENIED: "ACCESS_DENIED",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
}
_CODE: Final = re.compile(r"Code: (\d+)\. ")
_VERSION_TAIL: Final = re.compile(r"\s*\(version [^)]*\)+\s*$")


class ServerError(Exception):
    """A refusal that reaches the client as a ClickHouse exception; the connection goes on."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        name = _NAMES.get(code)
        self.message = text if text.startswith("DB::Exception") else f"DB::Exception: {text} ({name})"


class ProtocolError(ServerError):
    """Bytes this server cannot go on reading after: the client is told and its connection is closed."""


class EndOfInputError(Exception):
    """The peer closed the stream."""


def from_engine(error: BaseException) -> ServerError:
    """The engine reports errors as text; ClickHouse's clients want the code apart from the message."""
    text = str(error)
    found = _CODE.search(text)
    if found is None:
        return ServerError(UNKNOWN_EXCEPTION, text or type(error).__name__)
    message = text[found.end() :]
    # An error inside a table function carries a second "Code:"; the first one is the one that counts.
    message = message.replace(": data for INSERT was parsed from file.", "")
    return ServerError(int(found.group(1)), _VERSION_TAIL.sub("", message).strip())
