"""Who looks at the page: a key of the bank that a form takes once, then a cookie that only this gateway can read.

The cookie holds no secret of the key, and nothing is kept on the server, so that any instance of the gateway takes it:
it says which key it was, by which secret, since when and last when, encrypted under the master key. The key is looked
up anew with each page, so a key that is revoked, has ended or was made anew ends its sessions at once.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import math
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import orjson
from starlette.requests import Request
from starlette.responses import Response

from clearline import keys
from clearline.gateway import security, tls
from clearline.gateway.parts import Parts
from clearline.vault import vault_of
from schemas.errors import BadInputError
from schemas.identity import BANK
from schemas.records import AccessKey

IDLE_MS, LONGEST_MS = 30 * 60_000, 8 * 3_600_000
ATTEMPTS_AT_ONCE = 20  # of one address: each costs a twentieth of a burst
_FRESH_MS = 60_000  # a cookie that was seen so lately is not written anew
_ENDED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Door:
    """Pages that a session opens. `name`: of its cookie; `path`: under which all are; `scope`: what a key needs. A
    session of one door opens no other."""

    name: str
    path: str
    scope: str


FINANCE = Door("finance", "/finance", "reports")
PATH = FINANCE.path


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in. `mark`: of the key's secret; `number`: random, names the session; times in milliseconds UTC."""

    key_id: str
    mark: str
    number: str
    began: int
    seen: int


def refused(parts: Parts, request: Request, text: str, door: Door = FINANCE) -> tuple[AccessKey | None, str]:
    """The key whose token this is, and the word of `words.py` for why it does not open the page; empty when it does.

    Until the secret is proven all is one reason, so nobody learns anything about a key that is not his.
    """
    token = keys.read_token(text.strip())
    key = security.key_row(parts, token.key_id) if token is not None else None
    right = keys.matches(key, token.secret if token is not None else "")
    if token is None or key is None or not right or token.world != keys.world_prefix(parts.settings.sandbox):
        return None, "key.unknown"
    return key, why_not(parts, request, key, door)


def why_not(parts: Parts, request: Request, key: AccessKey, door: Door = FINANCE) -> str:
    """The word for why this key, whose secret is proven, does not open the page; empty when it does."""
    if not keys.taken(key, parts.now_ms()):
        return "key.unknown"
    if key.partner_id != BANK:
        return "key.not_bank"
    if door.scope not in keys.scopes_of(key.scopes):
        return "key.no_scope"
    if key.signature == "required":
        return "key.signed_only"
    if key.thumbprint and tls.thumbprint(request, parts.settings.gateway.trusted_proxies) != key.thumbprint:
        return "key.certificate"
    return ""


def begin(parts: Parts, key: AccessKey) -> Session:
    """A session of a key that `refused` had nothing against."""
    now = parts.now_ms()
    return Session(key.key_id, _mark(key), secrets.token_hex(16), now, now)


def current(parts: Parts, request: Request, door: Door = FINANCE) -> Session | None:
    """The session of a request; None when it has none that still goes on."""
    text = request.cookies.get(_name(parts, request, door), "")
    session = _opened(parts, text, door) if text else None
    if session is None or session.number in _ended(parts, door):
        return None
    now = parts.now_ms()
    if not (session.began <= session.seen <= now + _FRESH_MS):
        return None
    if now - session.seen > IDLE_MS or now - session.began > LONGEST_MS:
        return None
    key = security.key_row(parts, session.key_id)
    if key is None or not hmac.compare_digest(_mark(key), session.mark) or why_not(parts, request, key, door):
        return None
    return session


def keep(
    parts: Parts, request: Request, response: Response, session: Session, door: Door = FINANCE, *, new: bool = False
) -> None:
    """Has the browser keep the session, until it is closed at the latest. Not written anew within a minute."""
    now = parts.now_ms()
    if new or now - session.seen > _FRESH_MS:
        plain = orjson.dumps({n: getattr(replace(session, seen=now), n) for n in Session.__slots__})
        text = base64.urlsafe_b64encode(vault_of(parts.settings).seal(plain, _bound(parts, door))).decode().rstrip("=")
        response.set_cookie(
            _name(parts, request, door), text, path=door.path, secure=_secure(parts, request), httponly=True,
            samesite="strict",
        )  # fmt: skip


def end(parts: Parts, request: Request, response: Response, door: Door = FINANCE) -> None:
    """Ends the session of a request: its cookie is taken away, and this gateway takes no copy of it any more."""
    session = current(parts, request, door)
    if session is not None:
        ended = _ended(parts, door)
        ended[session.number] = None
        while len(ended) > _ENDED_MAX:
            del ended[next(iter(ended))]
    response.delete_cookie(
        _name(parts, request, door), path=door.path, secure=_secure(parts, request), httponly=True, samesite="strict"
    )


async def attempt(parts: Parts, request: Request, door: Door = FINANCE, who: str = "") -> int:
    """Takes one attempt to sign in of its address's, or of `who` where that is known already: behind a proxy all have
    one address. Seconds to wait when there is none left, else 0."""
    address = who or (_network(request.client.host) if request.client is not None else "unknown")
    s = parts.settings.gateway
    cost = max(1, s.burst // ATTEMPTS_AT_ONCE)
    found = await parts.gate.take(f"{door.name} sign-ins of {address}", cost)
    if not found.refused:
        return 0
    return max(1, math.ceil(found.day_reset_s if found.refused == "day" else cost / s.rate_per_s))


def own_form(request: Request) -> bool:
    """Whether a POST comes from a page of this gateway. Browsers say where a form was; who says nothing is none."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and host != "" and host == request.headers.get("host", "")


def from_elsewhere(request: Request) -> bool:
    """Whether somebody followed a link on another site: then the browser keeps the cookie back (SameSite=Strict)."""
    return request.headers.get("sec-fetch-site", "") in ("cross-site", "same-site")


def next_page(text: str, door: Door = FINANCE) -> str:
    """Where to go after signing in: a page of ours, whatever was sent."""
    # The text itself begins so, whatever a parser makes of it: browsers take `///finance` for the host `finance`.
    ours = text == door.path or text.startswith((door.path + "/", door.path + "?"))
    if not ours or "\\" in text or not text.isprintable() or len(text) > 4_000:
        return door.path
    return text


def _opened(parts: Parts, text: str, door: Door) -> Session | None:
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Session(**orjson.loads(vault_of(parts.settings).open(sealed, _bound(parts, door))))
    except (BadInputError, ValueError, TypeError, binascii.Error):
        return None


def _ended(parts: Parts, door: Door) -> dict[str, None]:
    ended: dict[str, None] = parts.memory.setdefault(f"{door.name}.ended", {})
    return ended


def _bound(parts: Parts, door: Door) -> str:
    return f"{door.name} session of {parts.settings.world}"


def _mark(key: AccessKey) -> str:
    return key.secret_hash[:8].hex()


def _secure(parts: Parts, request: Request) -> bool:
    return request.url.scheme == "https" or parts.base_url.startswith("https:")


def _name(parts: Parts, request: Request, door: Door) -> str:
    """With TLS browsers hold to the prefix: nobody without TLS can set it."""
    return ("__Secure-clearline-" if _secure(parts, request) else "clearline-") + door.name


def _network(address: str) -> str:
    """Whose an address is: of IPv6 everybody has 2^64 and more, so the first 64 bits."""
    with suppress(ValueError):
        if (ip := ip_address(address)).version == 6:
            return str(ip_network((ip, 64), strict=False))
    return address
