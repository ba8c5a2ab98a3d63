"""A receiver of webhooks, and the webhook worker as a process that tests can kill."""

from __future__ import annotations

import base64
import multiprocessing
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from standardwebhooks.webhooks import Webhook

from clearline.config import GatewaySettings, Settings, WebhookSettings
from clearline.vault import Vault, decode_key
from clearline.webhooks import worker
from clearline.webhooks.sender import bound_to
from clearline.webhooks.subscriptions import digest
from schemas import failpoints
from schemas.records import SealedSecret, Subscription, Want

MASTER_KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
SECRET = b"a secret of 32 bytes for testing"


def subscription(name: str, partner_id: str, url: str, wants: Sequence[Want | str], **fields: object) -> Subscription:
    """A verified subscription whose secret is SECRET."""
    sealed = Vault(decode_key(MASTER_KEY)).seal(SECRET, bound_to(name))
    all_of_it = tuple(Want(w) if isinstance(w, str) else w for w in wants)
    secret = SealedSecret(sealed, 1, 0, digest("k"))
    known: dict[str, object] = {
        "subscription_id": name, "partner_id": partner_id, "url": url, "note": "", "state": "verified",
        "wants": all_of_it, "secrets": (secret,), "created_at": 1, "verified_at": 1, "changed_at": 1, "asked": "",
        "requested_by": "test",
    }  # fmt: skip
    return Subscription(**{**known, **fields})  # type: ignore[arg-type]


class Arrival(NamedTuple):
    """A request that came. `attempt`: what the sender calls it; `verified`: whether its signature is right."""

    path: str
    id: str
    body: bytes
    attempt: int
    status: int
    verified: bool
    signatures: int
    at: float


@dataclass
class Receiver:
    """A real HTTP server. `answer`: the status for an arrival so far without one, from its path, id and how often that
    id came before; below 0: hangs for so many milliseconds and then answers 200."""

    answer: Callable[[str, str, int], int] = lambda _path, _id, _before: 200
    secret: bytes = SECRET
    arrivals: list[Arrival] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    echo: bool = True
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._count: dict[str, int] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *args: object) -> None:
                """A worker that is killed leaves broken connections."""

        self.server = Server(("127.0.0.1", 0), Handler)
        if self.tls is not None:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ids(self, path: str | None = None) -> set[str]:
        """Ids that were answered 2xx."""
        with self._lock:
            return {a.id for a in self.arrivals if 200 <= a.status < 300 and path in (None, a.path)}

    def seen(self) -> list[Arrival]:
        with self._lock:
            return list(self.arrivals)

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["content-length"])
        body = request.rfile.read(length)
        if len(body) < length:
            return  # whoever sent it was killed
        name = request.headers["webhook-id"]
        with self._lock:
            before = self._count.get(name, 0)
            self._count[name] = before + 1
        status = self.answer(request.path, name, before)
        try:
            Webhook(self.secret).verify(body, dict(request.headers.items()))
            verified = True
        except Exception:
            verified = False
        with self._lock:  # written down before the answer: a sender that is killed after it has delivered
            self.arrivals.append(
                Arrival(
                    request.path, name, body, int(request.headers["clearline-attempt"]), abs(status) if status > 0 else 200,
                    verified, len(request.headers["webhook-signature"].split()), time.monotonic(),
                )
            )  # fmt: skip
        if status < 0:
            time.sleep(-status / 1000)
            status = 200
        request.send_response(status)
        for key, value in self.headers.items():
            request.send_header(key, value)
        answer = body if self.echo else b""
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


@dataclass
class WebhookRole:
    """The worker of a world, each time with fail points of its own."""

    settings: Settings
    ready_file: Path
    slot: int = 0

    def start(self, fail: str = "") -> ForkServerProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        process = context.Process(target=_main, args=(self, fail), daemon=True)
        process.start()
        return process


def for_tests(settings: Settings, **webhooks: object) -> Settings:
    """Settings with a master key, quick retries and targets on this machine."""
    quick: dict[str, object] = {"private_targets": True, "first_retry_s": 0.05, "timeout_s": 1.0, "concurrency": 32}
    return settings.model_copy(
        update={
            "gateway": GatewaySettings(master_key=MASTER_KEY),
            "webhooks": WebhookSettings(**{**quick, **webhooks}),  # type: ignore[arg-type]
        }
    )


def _main(role: WebhookRole, fail: str) -> None:
    failpoints.arm(fail)
    worker.run(role.settings, role.slot, role.ready_file, 0.05)
