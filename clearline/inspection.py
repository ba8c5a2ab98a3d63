"""The guided inspection: what a partner's developer does once by hand before go-live, against a running gateway.

Each step is one request or two over HTTP, as the partner's own program would send it; what was sent and what came back
is told. Whether a check counts as passed says the gateway, which saw it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import orjson
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from clearline.signing import Signer
from schemas.errors import BadInputError, PartUnavailableError

_TOKEN = re.compile(r"(?:test|live)_(?P<key_id>[a-z0-9]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
_AMOUNT, _FAR_TOO_MUCH = 100, 9_000_000_000_000_000  # minor units
_WAIT_S = 20


class Step(NamedTuple):
    """One step. `passed`: None when it was left out."""

    check: str
    sent: str
    seen: str
    passed: bool | None


@dataclass
class Report:
    """All steps, and what the gateway says of the checks afterwards."""

    partner_id: str = ""
    steps: list[Step] = field(default_factory=list)
    onboarding: dict[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Checks that the gateway has not seen to pass."""
        found: list[str] = self.onboarding.get("missing", [])
        return found


class Inspection:
    """Runs the steps. `key`: the bearer token; `private_key`: PEM, empty: nothing is signed; `webhook`: an address of
    the caller's own that is subscribed already or will be, `local` for a receiver that is started here, or empty.

    `payer` and `payee`: accounts, by default the first two that a sandbox gives.
    """

    def __init__(
        self, url: str, key: str, private_key: str = "", *, payer: str = "", payee: str = "", currency: str = "CNY",
        webhook: str = "local", tell: Callable[[Step], None] = lambda _step: None, verify: bool = True,
    ) -> None:  # fmt: skip
        found = _TOKEN.fullmatch(key)
        if found is None:
            raise BadInputError("the key is no token such as test_KEYID_SECRET")
        self._key_id, self._private_key = found["key_id"], private_key
        self._payer, self._payee, self._currency = payer, payee, currency
        self._webhook, self._tell = webhook, tell
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_WAIT_S + 10, verify=verify
        )
        self._url = url
        self.report = Report()

    def run(self) -> Report:
        """All steps in their order. Raises BadInputError for a key that is not taken, PartUnavailableError."""
        with self._http:
            try:
                self._who()
                paid = self._pay()
                self._again(paid)
                self._refused()
                self._refund(paid)
                self._signed()
                self._notified()
                self.report.onboarding = self._json(self._http.get("/v1/onboarding"))
            except httpx.TransportError as e:
                raise PartUnavailableError("Gateway", self._url, str(e) or type(e).__name__) from None
        return self.report

    def _step(self, check: str, sent: str, seen: str, passed: bool | None) -> None:
        step = Step(check, sent, seen, passed)
        self.report.steps.append(step)
        self._tell(step)

    def _who(self) -> None:
        answer = self._http.get("/v1/partner")
        if answer.status_code != 200:
            raise BadInputError(f"the gateway does not take the key: {_seen(answer)}")
        self.report.partner_id = self._json(answer)["partner_id"]
        self._payer = self._payer or f"{self.report.partner_id}:wallet:main"
        self._payee = self._payee or f"{self.report.partner_id}:wallet:shop"
        self._step("key", "GET /v1/partner with the bearer key", _seen(answer), True)

    def _post(self, path: str, body: object, key: str = "") -> httpx.Response:
        headers = {"Idempotency-Key": key or f"onboard-{uuid4().hex}", "Prefer": f"wait={_WAIT_S}"}
        return self._http.post(path, json=body, headers=headers)

    def _transfer(self, amount: int, key: str = "") -> httpx.Response:
        accounts = {"payer": self._payer, "payee": self._payee}
        wanted = {"product": "wallet", "operation": "transfer", "amount": amount, "currency": self._currency}
        return self._post("/v1/transactions", {**wanted, "accounts": accounts, "reference": "inspection"}, key)

    def _pay(self) -> httpx.Response:
        paid = self._transfer(_AMOUNT)
        sent = f"POST /v1/transactions, {_AMOUNT} {self._currency} from {self._payer} to {self._payee}"
        self._step("transaction_settled", sent, _seen(paid), _is(paid, 201, "settled"))
        return paid

    def _again(self, paid: httpx.Response) -> None:
        key = paid.request.headers["Idempotency-Key"]
        same, other = self._transfer(_AMOUNT, key), self._transfer(_AMOUNT + 1, key)
        replayed = same.headers.get("Idempotent-Replayed") == "true" and same.content == paid.content
        conflict = other.status_code == 422 and self._json(other).get("code") == "idempotency_conflict"
        told = "the first answer, Idempotent-Replayed: true" if replayed else _seen(same)
        seen = f"{told}; another amount: {_seen(other)}"
        self._step("idempotent_retry", f"the same under the same key, {key}, twice", seen, replayed and conflict)

    def _refused(self) -> None:
        answer = self._transfer(_FAR_TOO_MUCH)
        sent = f"POST /v1/transactions, {_FAR_TOO_MUCH} {self._currency}: more than there is"
        passed = answer.status_code == 422 and self._json(answer).get("code") == "insufficient_funds"
        self._step("rejection_seen", sent, _seen(answer), passed)

    def _refund(self, paid: httpx.Response) -> None:
        if not _is(paid, 201, "settled"):
            self._step("refund_settled", "nothing: there is no settled transaction to refund", "-", False)
            return
        path = f"/v1/transactions/{self._json(paid)['id']}/refund"
        answer = self._post(path, {"amount": _AMOUNT})
        self._step("refund_settled", f"POST {path}", _seen(answer), _is(answer, 201, "settled"))

    def _signed(self) -> None:
        if not self._private_key:
            hint = "give --signing-key FILE, the Ed25519 private key whose public key is registered with the key"
            self._step("signature_verified", "nothing", hint, None)
            return
        with httpx.Client(base_url=self._url, auth=Signer(self._key_id, self._private_key)) as signed:
            answer = signed.get("/v1/partner")
        sent = "GET /v1/partner, signed (RFC 9421), without the bearer key"
        self._step("signature_verified", sent, _seen(answer), answer.status_code == 200)

    def _notified(self) -> None:
        if not self._webhook:
            self._step("webhook_verified", "nothing", "give --webhook local, or an address of your own", None)
        elif self._webhook == "local":
            with _receiver() as receiver:
                self._subscribe(receiver.url, receiver)
        else:
            self._subscribe(self._webhook, None)

    def _subscribe(self, url: str, receiver: Receiver | None) -> None:
        made = self._post("/v1/webhooks", {"url": url, "events": [{"type": "transaction.settled"}]})
        sent = f"POST /v1/webhooks for {url}, then .../verify"
        if made.status_code != 201:
            self._step("webhook_verified", sent, _seen(made), False)
            return
        document = self._json(made)
        if receiver is not None:
            receiver.secret = document["secret"]
        answer = self._post(f"/v1/webhooks/{document['id']}/verify", None)
        heard = (
            f"; the receiver heard {receiver.heard}, rightly signed" if receiver is not None and receiver.heard else ""
        )
        self._step("webhook_verified", sent, _seen(answer) + heard, answer.status_code == 200)
        if receiver is not None:  # it ends with this program
            self._http.delete(f"/v1/webhooks/{document['id']}", headers={"Idempotency-Key": f"onboard-{uuid4().hex}"})

    @staticmethod
    def _json(answer: httpx.Response) -> dict[str, Any]:
        try:
            document = orjson.loads(answer.content)
        except ValueError:
            raise BadInputError(f"{answer.url} answered {answer.status_code} and no JSON: is it a gateway?") from None
        return document if isinstance(document, dict) else {}


def _is(answer: httpx.Response, status: int, word: str) -> bool:
    return answer.status_code == status and orjson.loads(answer.content).get("status") == word


def _seen(answer: httpx.Response) -> str:
    """An answer in a few words."""
    try:
        document = orjson.loads(answer.content)
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    words = [str(answer.status_code)]
    if "code" in document:
        words.append(f"{document['code']}: {document.get('detail', '')}")
    elif "status" in document:
        words.append(str(document["status"]))
    elif "state" in document:
        words.append(str(document["state"]))
    return " ".join(words)


class Receiver:
    """What a receiver has heard. `secret`: whsec_..., by which requests are checked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.secret = ""
        self.heard = ""


@contextmanager
def _receiver() -> Iterator[Receiver]:
    """A webhook receiver on this machine, as small as one can be: it checks the signature and answers the challenge."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                event = Webhook(receiver.secret).verify(body, dict(self.headers.items()))
            except WebhookVerificationError:
                self.send_error(400)
                return
            receiver.heard = event["type"]
            answer = orjson.dumps({"challenge": event["data"].get("challenge", "")})
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hooks")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
