"""TLS of the gateway, and which client certificate a call showed: by the connection itself, or by a proxy in front."""

from __future__ import annotations

import base64
import binascii
import ssl
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from fastapi import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clearline.config import GatewaySettings
from schemas.errors import BadInputError

_STATE = "client_certificate"
HEAD_BYTES_MAX = 65_536
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
Network = IPv4Network | IPv6Network


class CertificateProtocol(HttpToolsProtocol):
    """uvicorn's own, and the SHA-256 of the client certificate in `scope["state"]` of each request.

    It sets no limit to the head of a request, which is in memory before anybody has been asked for a credential: a
    connection that sends more than HEAD_BYTES_MAX bytes beside a body (request line, headers, trailers, the framing
    of chunks) is answered 431 and closed.
    """

    _beside = 0  # bytes of this request that are no body
    _body = 0
    _ended = False

    def data_received(self, data: bytes) -> None:
        """Counts what came since a request last ended, as far as it is no body."""
        self._body, self._ended = 0, False
        super().data_received(data)
        self._beside = 0 if self._ended else self._beside + len(data) - self._body
        if self._beside > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended; what follows is of the next one."""
        self._ended = True
        super().on_message_complete()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        shown = connection.getpeercert(binary_form=True) if connection is not None else None
        if shown:
            self.app_state = {**self.app_state, _STATE: sha256(shown).hexdigest()}


def tls_options(settings: GatewaySettings) -> dict[str, Any]:
    """uvicorn's options: the protocol, and TLS when there is a certificate. `client_ca`: clients are asked for
    certificates of it, and those of other issuers are refused in the handshake; who shows none gets in, and may use the
    keys that need none. Raises BadInputError: half of a pair, no such file, a proxy that is no address."""
    # What X-Forwarded-For says of the peer would make anybody a trusted proxy.
    options: dict[str, Any] = {"http": CertificateProtocol, "ws": "none", "proxy_headers": False}
    networks(tuple(settings.trusted_proxies))
    if settings.certificate is None and settings.key is None:
        if settings.client_ca is not None:
            raise BadInputError("CLEARLINE_GATEWAY__CLIENT_CA needs CLEARLINE_GATEWAY__CERTIFICATE and __KEY")
        return options
    if settings.certificate is None or settings.key is None:
        raise BadInputError("CLEARLINE_GATEWAY__CERTIFICATE and CLEARLINE_GATEWAY__KEY go together")
    for file in (settings.certificate, settings.key, settings.client_ca):
        if file is not None and not file.is_file():
            raise BadInputError(f"{file} in the gateway's TLS settings is not a file")
    options |= {"ssl_certfile": str(settings.certificate), "ssl_keyfile": str(settings.key)}
    if settings.client_ca is not None:
        options |= {"ssl_ca_certs": str(settings.client_ca), "ssl_cert_reqs": ssl.CERT_OPTIONAL}
    return options


def thumbprint(request: Request, proxies: list[str]) -> str:
    """SHA-256 of the certificate that the caller showed, in hexadecimal; empty for none. A trusted proxy's word
    (RFC 9440) counts in place of its own certificate; anybody else's is not heard."""
    peer = request.client.host if request.client is not None else ""
    if proxies and _is_trusted(peer, tuple(proxies)):
        values = request.headers.getlist("client-cert")
        return _of_header(values[0]) if len(values) == 1 else ""
    shown: str = request.scope.get("state", {}).get(_STATE, "")
    return shown


def networks(proxies: tuple[str, ...]) -> tuple[Network, ...]:
    """Trusted proxies as networks: addresses, or networks such as 10.1.0.0/16. Raises BadInputError."""
    try:
        return tuple(ip_network(p, strict=False) for p in proxies)
    except ValueError as e:
        raise BadInputError(f"CLEARLINE_GATEWAY__TRUSTED_PROXIES: {e}") from None


@lru_cache(1024)
def _is_trusted(peer: str, proxies: tuple[str, ...]) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in networks(proxies))


def _of_header(value: str) -> str:
    """SHA-256 of the certificate in `:BASE64:`, an RFC 8941 byte sequence."""
    text = value.strip()
    if len(text) < 3 or text[0] != ":" or text[-1] != ":":
        return ""
    try:
        return sha256(base64.b64decode(text[1:-1], validate=True)).hexdigest()
    except (ValueError, binascii.Error):
        return ""
