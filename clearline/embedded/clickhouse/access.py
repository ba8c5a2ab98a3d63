"""What the engine itself refuses a reader: a role that may select and nothing else.

The engine has one user, `default`, and no storage for more; but it reads roles from a file when it opens, and a session
can lay down all its roles but one. So reading files, reaching other servers, creating, altering, dropping and killing
are refused by the engine's own grants, whatever a statement looks like. Which tables a reader may see, and which rows
of them, differs from reader to reader: see policy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FOLDER: Final = "access"
READER_ROLE: Final = "clearline_reader"
_OWNER_ROLE: Final = "clearline_owner"

# BACKUP may name any folder: the owner alone may use it, and can write files in other ways, too.
_CONFIG: Final = """<clickhouse>
    <users_config>{users}</users_config>
    <backups><allowed_path>/</allowed_path></backups>
</clickhouse>
"""
_USERS: Final = f"""<clickhouse>
    <profiles><default></default></profiles>
    <quotas><default></default></quotas>
    <roles>
        <{_OWNER_ROLE}><grants><query>GRANT ALL ON *.*</query></grants></{_OWNER_ROLE}>
        <{READER_ROLE}><grants>
            <query>GRANT SELECT, SHOW DATABASES, SHOW TABLES, SHOW COLUMNS ON *.*</query>
        </grants></{READER_ROLE}>
    </roles>
    <users>
        <default>
            <password></password>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT {_OWNER_ROLE}</query><query>GRANT {READER_ROLE}</query></grants>
        </default>
    </users>
</clickhouse>
"""


@contextmanager
def configuration(folder: Path) -> Iterator[str]:
    """Writes the engine's configuration into the data folder; yields the path to open it with, which is free of what
    the engine's addresses and XML would trip over, whatever the folder is called."""
    access = folder / FOLDER
    access.mkdir(exist_ok=True)
    handle = os.open(access, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = f"/proc/self/fd/{handle}"
        _replace(access / "users.xml", _USERS)
        _replace(access / "config.xml", _CONFIG.format(users=f"{place}/users.xml"))
        yield f"{place}/config.xml"
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(text)
    os.replace(draft, path)
