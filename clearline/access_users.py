"""Passwords of the roles out of a folder of secret files: what `clearline access apply` gives the brokers."""

from __future__ import annotations

from pathlib import Path

from clearline.config import Settings
from clearline.secret_files import read_secret
from schemas.errors import BadInputError
from streams.access import ROLES, user_of

FILE_PREFIX = "kafka-"


def passwords_in(settings: Settings, folder: Path) -> dict[str, str]:
    """Passwords by user, of the roles that have a file `kafka-ROLE` in the folder.

    A role of several principals has a file for each: `kafka-USER`. Raises BadInputError when there is none at all, or
    one cannot be read.
    """
    found = {}
    for role in ROLES:
        users = settings.kafka.principals.get(role, [user_of(settings.world, role)])
        for user in users:
            for path in (folder / f"{FILE_PREFIX}{user}", folder / f"{FILE_PREFIX}{role}"):
                if path.is_file():
                    found[user] = read_secret(path, "--passwords")
                    break
    if not found:
        raise BadInputError(f"{folder} has no file {FILE_PREFIX}ROLE, such as {FILE_PREFIX}worker")
    return found
