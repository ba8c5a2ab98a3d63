"""Dead letters in files, to be looked at and corrected, and back.

A line of JSON Lines holds one letter: where it came from, why it died, its bytes in base64, and, where they decode, the
command as `clearline publish` reads it. Either of the two may be changed. What comes back is checked before anything is
moved: the letter is the one that was exported, and the command keeps the contract.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson

from clearline.contract import INPUTS, ContractError, parse_json, read_command
from clearline.deadletters.judge import Judge
from clearline.deadletters.letters import Found
from clearline.deadletters.moves import Moves
from clearline.fields import EPOCH
from schemas.codec import UndecodableError
from schemas.errors import BadInputError
from schemas.records import Transaction

# These are told to all partitions or made by the system: `plan` refuses to have them corrected.
_NOT_AS_DOCUMENT = frozenset({"SetLimit", "SetCalendar", "CloseDay", "SealDay", "PublishProduct"})


def document_of(record: Any) -> dict[str, Any] | None:
    """A command as a line for `clearline publish`; None for what cannot be written so."""
    name = type(record).__name__
    if name not in INPUTS or name in _NOT_AS_DOCUMENT:
        return None
    if isinstance(record, Transaction):
        return _transaction(record)
    return {"command": name, **msgspec.structs.asdict(record)}


def _transaction(t: Transaction) -> dict[str, Any] | None:
    try:
        value_date = (EPOCH + timedelta(days=t.value_date)).isoformat()
        expires = datetime.fromtimestamp(t.expires_at / 1000, UTC) if t.expires_at else None
    except (OverflowError, ValueError, OSError):  # bytes may say anything
        return None
    postings = [
        {
            "account_id": p.account_id,
            "side": p.side,
            "amount": p.amount,
            **({"currency": p.currency} if p.currency else {}),
        }
        for p in t.postings
    ]
    optional: dict[str, Any] = {
        "accounts": dict(t.accounts), "postings": postings, "reference": t.reference, "metadata": dict(t.metadata),
        "original": t.original, "final": t.final, "note": t.note, "amounts": {a.name: a.amount for a in t.amounts},
        "rate": t.rate, "expires_at": expires.isoformat().replace("+00:00", "Z") if expires else None,
        "exponent": t.exponent if t.exponent >= 0 else None,
    }  # fmt: skip
    return {
        "partner_id": t.partner_id, "idempotency_key": t.idempotency_key, "product": t.product,
        "operation": t.operation, **({"amount": t.amount} if t.amount else {}), "currency": t.currency,
        "value_date": value_date, **{k: v for k, v in optional.items() if v or (v == 0 and v is not False)},
    }  # fmt: skip


def exported(found: Found, moves: Moves, judge: Judge) -> dict[str, Any]:
    """One letter as it is written into a file. `problems`: what the contract says against its command."""
    value = found.letter.value or b""
    out: dict[str, Any] = {
        **found.to_dict(), "state": moves.state(found), "original": moves.first_of(found),
        "attempts": moves.attempts(found), "sha256": found.digest.hex(),
        "value_base64": base64.b64encode(value).decode(), "record_type": "", "command": None, "problems": [],
    }  # fmt: skip
    try:
        record = judge.read(found.letter.value)
    except UndecodableError as e:
        out["problems"] = [str(e)]
        return out
    out["record_type"] = type(record).__name__
    out["command"] = document_of(record)
    if out["command"] is not None:
        try:
            read_command(out["command"], date.min)
        except ContractError as e:
            out["problems"] = [str(x) for x in e.errors]
    return out


def write_lines(path: Path, letters: Iterable[dict[str, Any]]) -> int:
    """Writes JSON Lines; how many. The file is whole, or it is not there. Raises BadInputError."""
    count, draft = 0, path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            for document in letters:
                file.write(_json(document) + b"\n")
                count += 1
        draft.replace(path)
    except OSError as e:
        raise BadInputError(f"{path}: {e.strerror or e}") from None
    return count


def write_files(folder: Path, letters: Iterable[dict[str, Any]]) -> int:
    """Writes PARTITION-OFFSET.bin with the bytes as they came, and .json with the rest, per letter; how many."""
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for document in letters:
            name = str(document["id"]).replace(":", "-")
            (folder / f"{name}.bin").write_bytes(base64.b64decode(document["value_base64"]))
            (folder / f"{name}.json").write_bytes(_json({k: v for k, v in document.items() if k != "value_base64"}))
            count += 1
    except OSError as e:
        raise BadInputError(f"{folder}: {e.strerror or e}") from None
    return count


def _json(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # orjson stops at 64 bits
        import json

        return json.dumps(document, ensure_ascii=False).encode()


def read_edits(path: Path) -> dict[str, dict[str, Any]]:
    """The letters in a file or folder that `export` wrote, by id, as they stand there now. Raises BadInputError."""
    try:
        documents = list(_of_folder(path) if path.is_dir() else _of_lines(path))
    except OSError as e:
        raise BadInputError(f"{path}: {e.strerror or e}") from None
    out: dict[str, dict[str, Any]] = {}
    for where, document in documents:
        if not isinstance(document, dict) or not all(isinstance(document.get(k), str) for k in ("id", "sha256")):
            raise BadInputError(f"{where}: is no letter that `clearline dlq export` wrote: id and sha256 are missing")
        if document["id"] in out:
            raise BadInputError(f"{where}: letter {document['id']} stands here twice: which correction is meant?")
        out[document["id"]] = {**document, "where": where}
    if not out:
        raise BadInputError(f"{path}: holds no letters")
    return out


def _of_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            yield f"{path} line {number}", _parsed(f"{path} line {number}", line)


def _of_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    for file in sorted(folder.glob("*.json")):
        document = _parsed(str(file), file.read_bytes())
        raw = file.with_suffix(".bin")
        if isinstance(document, dict) and raw.exists():
            document["value_base64"] = base64.b64encode(raw.read_bytes()).decode()
        yield str(file), document


def _parsed(where: str, text: bytes) -> Any:
    try:
        return parse_json(text)
    except ContractError as e:
        raise BadInputError(f"{where}: {e}") from None


def corrected(edits: Mapping[str, Mapping[str, Any]], letters: Iterable[Found], judge: Judge) -> dict[str, bytes]:
    """The corrected bytes by the letter's id. Raises BadInputError that names the first line and what is wrong in it;
    then nothing of the file may be moved."""
    return {found.id: _correction(edits[found.id], found, judge) for found in letters}


def _correction(edit: Mapping[str, Any], found: Found, judge: Judge) -> bytes:
    where, original = f"{edit['where']}, letter {found.id}", found.letter.value or b""
    if edit["sha256"] != found.digest.hex():
        raise BadInputError(f"{where}: sha256 is not that of the letter: is the file of another world?")
    try:
        value = base64.b64decode(str(edit.get("value_base64", "")), validate=True)
    except binascii.Error:
        raise BadInputError(f"{where}: value_base64: is not base64") from None
    command = edit.get("command")
    try:
        before = document_of(judge.read(found.letter.value))
    except UndecodableError:
        before = None
    bytes_changed = "value_base64" in edit and value != original
    if command is None or command == before:
        if not bytes_changed:
            raise BadInputError(f"{where}: nothing is corrected; to put it back as it is, use `dlq redrive --match`")
        return value
    if bytes_changed:
        raise BadInputError(f"{where}: both command and value_base64 are changed: change one of them")
    if (
        isinstance(command, dict)
        and command.get("command", "Transaction") == "Transaction"
        and "value_date" not in command
    ):
        raise BadInputError(
            f"{where}: value_date: must be given, so that the same file is the same correction tomorrow"
        )
    try:
        return judge.codec.encode(read_command(command, date.min))
    except ContractError as e:
        raise BadInputError(f"{where}: {e}") from None
