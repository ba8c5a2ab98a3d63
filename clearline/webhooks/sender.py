"""Sends one notification: signs it as Standard Webhooks has it, and says in words what came back.

Whatever goes wrong is a result, not an exception: the queue decides what follows from it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import NamedTuple

import httpcore
import httpx
import structlog
from standardwebhooks.webhooks import Webhook

from clearline.config import WebhookSettings
from clearline.vault import Vault
from clearline.webhooks.targets import PinnedTransport, Resolve, TargetRefusedError, check_url, system_resolve
from schemas.errors import BadInputError
from schemas.records import Subscription

log = structlog.get_logger()

ANSWER_BYTES_MAX = 65_536
ANSWER_S = 2.0
_FAILURES: tuple[type[Exception], ...] = (
    httpx.HTTPError, httpx.InvalidURL, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError,
    httpcore.UnsupportedProtocol, OSError, ssl.SSLError,
)  # fmt: skip


class Sent(NamedTuple):
    """What became of one attempt. `status`: 0 when there was no answer; `answer`: as much of its body as is read."""

    ok: bool
    status: int
    error: str
    answer: bytes = b""


def signatures(secrets: list[bytes], webhook_id: str, at_ms: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks; one signature for each secret."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    signed = (Webhook(s).sign(webhook_id, at, body.decode()) for s in secrets)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(signed),
    }


class Sender:
    """Sends notifications; close it in the end. `resolve` and `tls` are for tests."""

    def __init__(
        self,
        settings: WebhookSettings,
        vault: Vault,
        resolve: Resolve = system_resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._vault = vault
        self._secrets: dict[bytes, bytes] = {}
        self._client = httpx.AsyncClient(
            transport=PinnedTransport(settings.concurrency, settings.private_targets, resolve, tls),
            timeout=settings.timeout_s, follow_redirects=False, trust_env=False,
            # A receiver's cookies would be kept for as long as the worker lives, however many it sets.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )  # fmt: skip

    async def send(self, s: Subscription, webhook_id: str, body: bytes, attempt: int, now_ms: int) -> Sent:
        """One attempt, within the settings' time for all of it. Never raises for what the receiver or network does."""
        try:
            check_url(s.url, self._settings.private_targets)
            headers = {
                "Content-Type": "application/json", "User-Agent": "Clearline-Webhooks/1",
                "Accept": "*/*", "Accept-Encoding": "identity",
                "clearline-attempt": str(attempt), **signatures(self._open(s, now_ms), webhook_id, now_ms, body),
            }  # fmt: skip
            return await self._post(s.url, headers, body)
        except TargetRefusedError as e:
            return Sent(False, 0, f"refused: {e}")
        except BadInputError as e:
            return Sent(False, 0, str(e))
        except TimeoutError:
            return Sent(False, 0, f"no answer within {self._settings.timeout_s:g} s")
        except _FAILURES as e:
            return Sent(False, 0, f"{type(e).__name__}: {e}"[:200])
        except Exception as e:  # one receiver's oddity must not end the work for all others
            log.error("webhook attempt failed oddly", subscription=s.subscription_id, error=f"{type(e).__name__}: {e}")
            return Sent(False, 0, f"{type(e).__name__}: {e}"[:200])

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Sent:
        request = self._client.build_request("POST", url, content=body, headers=headers)
        async with asyncio.timeout(self._settings.timeout_s):
            response = await self._client.send(request, stream=True)
        answer = b""
        try:
            # What it says is of little weight; that it answered is. So a body that never ends is left.
            with suppress(TimeoutError, *_FAILURES):
                async with asyncio.timeout(ANSWER_S):
                    async for part in response.aiter_raw():
                        answer += part
                        if len(answer) >= ANSWER_BYTES_MAX:
                            break
        finally:
            with suppress(*_FAILURES):
                await response.aclose()
        ok = 200 <= response.status_code < 300
        error = "" if ok else f"answered {response.status_code}"
        return Sent(ok, response.status_code, error, answer[:ANSWER_BYTES_MAX])

    def _open(self, s: Subscription, now_ms: int) -> list[bytes]:
        """The secrets that requests are signed with now, newest first. Raises BadInputError."""
        out = []
        for secret in s.secrets:
            if not secret.ends_at or secret.ends_at > now_ms:
                if secret.sealed not in self._secrets:
                    if len(self._secrets) > 10_000:
                        self._secrets.clear()
                    self._secrets[secret.sealed] = self._vault.open(secret.sealed, bound_to(s.subscription_id))
                out.append(self._secrets[secret.sealed])
        return out

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def bound_to(subscription_id: str) -> str:
    """What a sealed secret is bound to."""
    return f"s:{subscription_id}"
