"""What must be read back but not lie about in the clear: secrets of webhooks, sealed under the master key.

AES-256-GCM with a random nonce; what a text is for is bound to it, so a sealed secret cannot be moved to another row.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path

from clearline.config import Settings
from schemas.errors import BadInputError

KEY_BYTES = 32
KEY_FILE = "master.key"
_VERSION = b"\1"
_NONCE_BYTES = 12


class Vault:
    """Seals and opens under one master key of 32 bytes."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != KEY_BYTES:
            raise BadInputError(f"a master key has {KEY_BYTES} bytes, not {len(master_key)}")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # here: most processes only hand the key on

        self._aes = AESGCM(master_key)

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        """The text, encrypted. `bound_to`: what it is for, such as the key of its row; needed again to open it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._aes.encrypt(nonce, plain, bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """The text in what `seal` made. Raises BadInputError when the master key is another one, or it was changed or
        moved."""
        from cryptography.exceptions import InvalidTag

        start = len(_VERSION) + _NONCE_BYTES
        try:
            if sealed[:1] != _VERSION:
                raise InvalidTag
            return self._aes.decrypt(sealed[1:start], sealed[start:], bound_to.encode())
        except (InvalidTag, ValueError):
            raise BadInputError(
                f"the secret of {bound_to} cannot be opened: CLEARLINE_GATEWAY__MASTER_KEY is not the one it was "
                "sealed under, or it was changed"
            ) from None


def vault_of(settings: Settings) -> Vault:
    """The vault of these settings. Raises BadInputError when they have no master key."""
    if not settings.gateway.master_key:
        raise BadInputError("set CLEARLINE_GATEWAY__MASTER_KEY to 32 random bytes in base64url: it seals secrets")
    return Vault(decode_key(settings.gateway.master_key))


def decode_key(text: str) -> bytes:
    """A master key from its text in base64url. Raises BadInputError, which does not show it."""
    try:
        key = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise BadInputError(f"CLEARLINE_GATEWAY__MASTER_KEY must be {KEY_BYTES} bytes in base64url")
    return key


def with_master_key(settings: Settings) -> Settings:
    """The settings with a master key: their own, or the one that the data folder keeps, which is made when there is
    none. Only for a stack on this machine: its supervisor hands it to the roles. Another user of the machine, who may
    not read it, goes without."""
    if settings.gateway.master_key:
        return settings
    try:
        key = _kept(settings.data_dir / KEY_FILE)
    except PermissionError:
        return settings
    return settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"master_key": key})})


def _kept(file: Path) -> str:
    """The key in the file; a new one, readable by its owner only, when there is none. Whoever comes second takes the
    first one's: the file appears whole or not at all."""
    if not file.exists():
        new = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as out:
                out.write(base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode())
                out.flush()
                os.fsync(out.fileno())
            os.link(new, file)
        except FileExistsError:
            pass
        finally:
            new.unlink(missing_ok=True)
    text = file.read_text().strip()
    decode_key(text)
    return text
