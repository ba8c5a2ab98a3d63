"""The one small tree of errors. A rejected transaction is not an error: it is an outcome with a reason."""

from __future__ import annotations

READ_ONLY = "read_only"
NO_SPACE = "no_space"


class ClearlineError(Exception):
    """Base; its text is one sentence for people. `exit_code` is what the command line ends with."""

    exit_code = 3


class DifferenceFoundError(ClearlineError):
    """A check ran and found that two things differ."""

    exit_code = 1


class BadInputError(ClearlineError):
    """The caller gave something that cannot be taken: usage, a file, a setting."""

    exit_code = 2


class PartUnavailableError(ClearlineError):
    """A part (broker, registry, ClickHouse, Redis) does not answer, or not as it should. Pause and try again.

    `code`: what is wrong, where more is known than that it does not serve: READ_ONLY or NO_SPACE; else "".
    """

    def __init__(self, part: str, address: str, hint: str = "", *, code: str = "") -> None:
        how = {READ_ONLY: "is read-only", NO_SPACE: "has no space left"}.get(code, "does not answer")
        super().__init__(f"{part} at {address} {how}{': ' + hint if hint else ''}")
        self.part = part
        self.address = address
        self.code = code


class InvariantError(ClearlineError):
    """Something that can never be true is true. The partition stops: a wrong ledger must not go on.

    `partition`: which one; None when it concerns the whole process.
    """

    def __init__(self, text: str, partition: int | None = None) -> None:
        super().__init__(text)
        self.partition = partition
