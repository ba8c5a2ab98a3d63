"""Tickets in forms: what was shown for confirmation, sealed for the session that was shown it.

A form sends its ticket back and not the fields, so what is done is what was confirmed; nobody else's page can make one,
and the key in it makes a double click one act. Nothing is kept on the server.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from clearline.gateway.finance.session import Session
from clearline.gateway.parts import Parts
from clearline.vault import vault_of
from schemas.errors import BadInputError

LASTS_MS = 10 * 60_000
_WRONG = "This form is not taken: it is older than ten minutes, or of another session. Begin again."


def ticket(parts: Parts, session: Session, act: str, fields: Mapping[str, Any]) -> str:
    """A ticket for one act. `fields`: what it does, as JSON values."""
    told = {"act": act, "key": f"console-{secrets.token_hex(16)}", "at": parts.now_ms(), **fields}
    sealed = vault_of(parts.settings).seal(orjson.dumps(told), _bound(session))
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def opened(parts: Parts, session: Session, act: str, text: str) -> dict[str, Any]:
    """What a ticket of this session for this act says. Raises BadInputError."""
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        told: dict[str, Any] = orjson.loads(vault_of(parts.settings).open(sealed, _bound(session)))
    except (BadInputError, ValueError, binascii.Error):
        raise BadInputError(_WRONG) from None
    if told.get("act") != act or not 0 <= parts.now_ms() - int(told["at"]) <= LASTS_MS:
        raise BadInputError(_WRONG)
    return told


def _bound(session: Session) -> str:
    return f"operations form of {session.number}"
