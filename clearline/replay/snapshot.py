"""A shadow's books as plain bytes: what `ledger.state` would hold of them, and the memory of keys and transactions.

A replay that was killed goes on from here, so the bytes must hold everything that decides an outcome. They hold the
rows that a worker recovers from, written by the same codec, and nothing that could run when it is read (no pickle).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ledger.keys import KeyIndex
from ledger.state import PartitionBase
from schemas.codec import Codec
from schemas.errors import InvariantError

META = "meta"
_DIGEST_BYTES = 32


def rows_of(base: PartitionBase, codec: Codec) -> Iterator[tuple[str, bytes]]:
    """The rows of `ledger.state` that these books would have, by key, in no order; the partition's own is the last."""
    encode = codec.encode
    for name, account in base.accounts.items():
        yield f"a:{name}", encode(account.state())
    for name, hold in base.holds.items():
        yield f"h:{name}", encode(hold.state())
    for name, partner in base.partners.items():
        yield f"p:{name}", encode(partner.record())
    for key, row in base.rows.items():
        yield key, encode(row)
    yield META, encode(base.head.record())


def digests(rows: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """The digest of each row, by key."""
    return {key: sha256(value).digest() for key, value in rows}


def state_digest(rows: Mapping[str, bytes]) -> str:
    """One number for the digests of a set of rows, in hex: two sets with the same keys and values have the same."""
    whole = sha256()
    for key in sorted(rows):
        name = key.encode()
        whole.update(len(name).to_bytes(4, "big") + name + rows[key])
    return whole.hexdigest()


def dump(base: PartitionBase, index: KeyIndex, codec: Codec) -> dict[str, Any]:
    """The books as plain values."""
    names, spans = base.entries.dump()
    return {"rows": list(rows_of(base, codec)), "keys": index.dump(), "names": names, "spans": spans}


def load(found: dict[str, Any], codec: Codec, window_ms: int) -> tuple[PartitionBase, KeyIndex]:
    """The books that `dump` gave."""
    base, index = PartitionBase(window_ms), KeyIndex(window_ms)
    for key, value in found["rows"]:
        base.restore(key, codec.decode(value))
    index.load(found["keys"])
    base.entries.load(found["names"], found["spans"])
    return base, index


def write(path: Path, document: dict[str, Any]) -> None:
    """Writes a file whole or not at all, with a digest before it. It is on the disk when this returns."""
    data = msgspec.msgpack.encode(document)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(sha256(data).digest())
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None when there is nothing. Raises InvariantError when the file was changed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        raise InvariantError(f"{path} is not what was written: delete it, and the replay begins before it")
    found: dict[str, Any] = msgspec.msgpack.decode(data[_DIGEST_BYTES:])
    return found
