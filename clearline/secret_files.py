"""Secrets that stand in files of their own, as Docker and Kubernetes hand them out: they are in no environment."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import BadInputError

_BYTES_MAX = 65_536


def read_secret(path: Path, setting: str) -> str:
    """The first line of the file. `setting`: the name of the setting that gave the path.

    Raises BadInputError when the file cannot be read or says nothing.
    """
    try:
        with path.open(encoding="utf-8") as file:
            secret = file.read(_BYTES_MAX).partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
        raise BadInputError(f"the secret file {path} (from {setting}) cannot be read: {why}") from None
    if not secret:
        raise BadInputError(f"the secret file {path} (from {setting}) is empty")
    return secret
