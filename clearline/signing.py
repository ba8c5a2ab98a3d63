"""Signs requests to the gateway (RFC 9421, Ed25519): for httpx, and as an example of it in 30 lines.

httpx.Client(base_url="https://...", auth=Signer("4kq7x0m2c9vbt1sd", private_key_pem))
"""

from __future__ import annotations

import secrets
from collections.abc import Generator

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import ED25519

from schemas.errors import BadInputError

LABEL = "clearline"
ALGORITHM = "ed25519"
DIGEST = "content-digest"
COVERED = ("@method", "@authority", "@path", "@query")
COVERED_HEADERS = ("idempotency-key", "clearline-partner", "prefer")  # each where it is sent
NONCE_CHARACTERS = (16, 64)


class Signer(httpx.Auth, HTTPSignatureKeyResolver):
    """Signs each request anew, with a nonce of its own. `private_key`: PEM, or the key itself."""

    requires_request_body = True

    def __init__(self, key_id: str, private_key: str | bytes | Ed25519PrivateKey) -> None:
        self._key_id = key_id
        self._key = private_key if isinstance(private_key, Ed25519PrivateKey) else read_private_key(private_key)
        self._signer = HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=self)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """httpx's hook."""
        self.sign(request)
        yield request

    def sign(self, request: httpx.Request) -> None:
        """Puts Content-Digest, Signature-Input and Signature into the request, in place of such as it had."""
        for name in (DIGEST, "signature-input", "signature"):
            request.headers.pop(name, None)
        body = request.content
        self._signer.sign(
            request,
            key_id=self._key_id,
            nonce=secrets.token_urlsafe(24),
            label=LABEL,
            covered_component_ids=(*COVERED, *(name for name in COVERED_HEADERS if name in request.headers)),
            body=body or None,
        )

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        """The library's hook."""
        return self._key

    def resolve_public_key(self, key_id: str) -> None:
        """Nothing is verified here."""


def new_key_pair() -> tuple[str, str]:
    """A new private key and its public key, both as PEM. Keep the first, register the second."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private.decode(), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_private_key(pem: str | bytes) -> Ed25519PrivateKey:
    """An Ed25519 key in PEM, without a password. Raises BadInputError, which does not show it."""
    try:
        key = load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, None)
    except (ValueError, TypeError):
        raise BadInputError("the private key is not a PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInputError("the private key must be an Ed25519 key")
    return key
