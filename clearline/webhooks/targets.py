"""Where a webhook may go: public addresses of the internet, and nothing that only looks like one.

A partner chooses the URL, and a request to it leaves from inside of the bank. So the text is checked narrowly, and each
connection resolves the name once, refuses it unless every address is public, and goes to one of those very addresses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from schemas.errors import ClearlineError

URL_CHARS_MAX = 2_000
_NAMES = ThreadPoolExecutor(64, "names")  # a slow name server keeps a thread beyond its caller's patience
Resolve = Callable[[str, int], Awaitable[list[str]]]

_TEXT = re.compile(r"[!-;=?-Z_a-z~\[\]]*")  # printable ASCII without space, quotes, <, >, \, ^, `, {, |, }
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NOT_NAMES = frozenset({"localhost", "local", "internal", "intranet", "lan", "home", "corp", "arpa", "onion"})

# What the IANA registries of special-purpose addresses do not call globally reachable, and multicast. Of IPv6 only
# 2000::/3 is global unicast; within it, what is special or carries an IPv4 address inside (Teredo, 6to4) is left out.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(n)
    for n in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


class TargetRefusedError(ClearlineError):
    """A webhook may not go there; the text says why."""


def is_public(address: str) -> bool:
    """Whether an address belongs to somebody on the internet. Anything that is no plain address does not."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in n for n in _NOT_PUBLIC_4)
    return ip.scope_id is None and ip in _PUBLIC_6 and not any(ip in n for n in _NOT_PUBLIC_6)


def check_url(url: str, private: bool = False) -> None:
    """Whether the text of a URL may be a target; nothing is resolved. `private`: http, any port and addresses of
    private networks too. Raises TargetRefusedError."""
    if not 0 < len(url) <= URL_CHARS_MAX:
        _refuse(f"1 to {URL_CHARS_MAX} characters")
    if not _TEXT.fullmatch(url):
        _refuse("printable ASCII; write another alphabet as its xn-- name")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        _refuse("it cannot be read as a URL")
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        _refuse("https only")
    if "@" in parts.netloc:
        _refuse("no user or password in it")
    if "#" in url:
        _refuse("no fragment")
    if port is not None and port != 443 and port < 1024 and not private:
        _refuse("port 443, or 1024 and above")
    _check_host(parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":"), private)


def _check_host(host: str, private: bool) -> None:
    """Raises TargetRefusedError unless it is a name, or an address in its one plain spelling, that may be public."""
    if host.startswith("[") and host.endswith("]"):
        try:
            address = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            _refuse("no such IPv6 address")
        if not private and not is_public(address):
            _refuse(f"{address} is not public")
        return
    labels = host.lower().split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or len(host) > 253:
        _refuse("no such host name")
    if _NUMBER.fullmatch(labels[-1]):  # some resolvers take it for an address, in spellings of old
        try:
            address = str(ipaddress.IPv4Address(host))
        except ValueError:
            _refuse("an IPv4 address is four decimal numbers")
        if not private and not is_public(address):
            _refuse(f"{address} is not public")
        return
    if not private and (len(labels) < 2 or labels[-1] in _NOT_NAMES):
        _refuse(f"{host} is no public name")


def _refuse(why: str) -> Any:
    raise TargetRefusedError(why)


async def system_resolve(host: str, port: int) -> list[str]:
    """Every address that this machine's resolver gives for a name. Raises OSError."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_NAMES, ask)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else: there is no second look-up."""

    def __init__(self, resolve: Resolve, private: bool) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._resolve = resolve
        self._private = private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as e:
            raise httpcore.ConnectError(f"{host} has no address: {e}") from e
        if not addresses:
            raise httpcore.ConnectError(f"{host} has no address")
        if not self._private:
            for address in addresses:
                if not is_public(address):
                    # Which one is not told: the partner reads this, and the bank's own names are not its business.
                    raise TargetRefusedError(f"{host} has an address that is not public")
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses[:4]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as e:
                failed = e
        raise failed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise TargetRefusedError("no sockets of this machine")


@cache
def _public_authorities() -> ssl.SSLContext:
    """Reading the certificate authorities takes longer than all else, and whoever verifies may do so often."""
    return httpx.create_ssl_context(trust_env=False)


class PinnedTransport(httpx.AsyncBaseTransport):
    """httpx over connections that `_Pinned` makes. Connections are kept by name, so TLS and `Host` are the name's."""

    def __init__(
        self, connections: int, private: bool, resolve: Resolve = system_resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or _public_authorities(), max_connections=connections,
            max_keepalive_connections=connections, keepalive_expiry=30.0, network_backend=_Pinned(resolve, private),
        )  # fmt: skip

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request. Raises httpcore's errors, and TargetRefusedError."""
        u = request.url
        assert isinstance(request.stream, httpx.AsyncByteStream)
        response = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=u.raw_scheme, host=u.raw_host, port=u.port, target=u.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Stream(response))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()
