"""Canary secrets, sent in every place and raised in every error, appear in no log, no answer and no traceback."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from clearline import cli, keys, redaction
from clearline.config import load_settings
from clearline.signing import Signer
from clearline.stack import CHECKOUT, Stack
from clearline.vault import vault_of
from schemas.errors import PartUnavailableError
from tests.signed import PRIVATE, PUBLIC, Door, a_request

WORD = "cAnAryOfASecretThatNobodyMaySee000000000000"  # as long as a secret of a key: 43
TOKEN = f"test_4kq7x0m2c9vbt1sd_{WORD}"
FORMS = [
    TOKEN, f"live_4kq7x0m2c9vbt1sd_{WORD}", f"whsec_{WORD}", f"Bearer {WORD}", f"Authorization: Bearer {TOKEN}",
    f"{{'authorization': 'Basic {WORD}'}}", f"(b'authorization', b'Bearer {TOKEN}')", f"redis://user:{WORD}@host:6379/0",
    f"rediss://:{WORD}@host/0", f"https://me:{WORD}@host/x", f"Cookie: {WORD}",
    f"-----BEGIN PRIVATE KEY-----\n{WORD}\n-----END PRIVATE KEY-----", f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{WORD}",
    f"Signature: clearline=:{WORD}{WORD}==:",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_known_by_its_form(form: str) -> None:
    assert WORD not in redaction.hide(form)
    assert WORD not in redaction.hide(f"something went wrong: {form}; and so on")


@given(st.text(max_size=200))
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    innocent = re.sub(
        r"(?i)test_|live_|whsec_|bearer|basic|authorization|cookie|x-api-key|://|PRIVATE KEY|=:", "", text
    )
    assert redaction.hide(innocent) == innocent


def test_what_an_operator_needs_stays() -> None:
    text = "key 4kq7x0m2c9vbt1sd of acme/shop-17 at redis://cache:6379/0: signature_invalid, sandbox.transactions.submitted"
    assert redaction.hide(text) == text
    assert redaction.hide(TOKEN) == "test_4kq7x0m2c9vbt1sd_[hidden]"  # which key it was may be seen


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Signature",
        "client_secret",
        "password",
        "kafka.sasl.password",
        "token",
        "Set-Cookie",
        "master_key",
        "private_key",
    ],
)
def test_a_secret_is_known_by_what_it_stands_under(name: str) -> None:
    for event in (
        {name: WORD},
        {"headers": {name: WORD}},
        {"headers": [(name.encode(), WORD.encode())]},
        {"a": [{"b": {name: [WORD]}}]},
    ):
        assert WORD not in repr(redaction.redact(None, "info", event))
    assert redaction.redact(None, "info", {"password": ""}) == {"password": ""}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    monkeypatch.setattr(redaction, "_known", set())
    return load_settings(
        data_dir=tmp_path, redis={"url": f"redis://u:{WORD}1%2F@h:1/0"}, gateway={"master_key": WORD},
        clickhouse={"password": WORD + "2", "reader_password": WORD + "3"},
        kafka={"client": {"sasl.password": WORD + "4", "ssl.key.pem": WORD + "5", "client.id": "clearline-settlement"}},
    )  # fmt: skip


def test_the_secrets_of_the_settings_are_known_wherever_they_stand(settings: Any) -> None:
    redaction.know(settings)
    secrets = redaction.secrets_of(settings)
    assert len(secrets) == 7
    for secret in secrets:
        assert WORD not in redaction.hide(f"plainly {secret} here")
    assert redaction.hide("clearline-settlement") == "clearline-settlement"
    assert WORD not in repr(settings)
    assert vault_of(settings) is not None


def test_what_a_stack_says_of_itself_has_no_secret(settings: Any) -> None:
    """run.json and `clearline status`: addresses of parts elsewhere may have passwords in them."""
    stack = Stack(settings)
    stack._ports = {"kafka": 1}
    said = json.dumps(stack.status())
    assert "@h:1/0" in said
    assert WORD not in said


def test_every_log_of_a_role_is_without_them(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own: what logs, and what ends a thread or the process with a traceback."""
    program = f"""
import logging, threading, structlog
from clearline import redaction
from clearline.roles import log_to_stderr
from clearline.config import load_settings
redaction.know(load_settings(clickhouse={{"password": "{WORD}9"}}))
log_to_stderr()
log = structlog.get_logger()
def with_locals():
    unknown = "{WORD}"  # of no form that is known: what a traceback with variables would show
    raise LookupError("an error of ours")
try:
    with_locals()
except LookupError as e:
    log.error("no variables", exc_info=e)
    logging.getLogger("uvicorn.error").error("nor here", exc_info=e)
log.warning("refused", token="{TOKEN}", headers=[("authorization", "Bearer {WORD}")], note="{TOKEN}", other="{WORD}9")
try:
    raise ValueError("could not use {WORD}9 or {TOKEN}")
except ValueError as e:
    log.error("failed", exc_info=e, error=str(e))
    logging.getLogger("uvicorn.error").exception("Exception in ASGI application %s", "{TOKEN}")
logging.getLogger("redis").warning("at redis://u:%s@h", "{WORD}")
def broken(): raise RuntimeError("in a thread: {WORD}9")
t = threading.Thread(target=broken); t.start(); t.join()
raise SystemError("at the end: {TOKEN}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    for words in (
        "refused",
        "failed",
        "Exception in ASGI application",
        "in a thread",
        "at the end",
        "Traceback",
        "redis",
    ):
        assert words in said, said
    assert WORD not in said
    assert said.count(redaction.HIDDEN) >= 10


def test_errors_of_commands_are_without_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (PartUnavailableError("Redis", f"redis://u:{WORD}@h", TOKEN), ValueError(TOKEN)):

        def broken(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(cli, "build", broken)
        assert cli.main(["status", "--json"]) == 3
        said = capsys.readouterr()
        assert "error" in said.out
        assert WORD not in said.out + said.err


def _places(made: keys.Made, secret: str) -> list[dict[str, Any]]:
    """A request for each place that a secret could be sent in, by mistake or not."""
    right = {"Authorization": f"Bearer {made.token}", "Idempotency-Key": "k", "Content-Type": "application/json"}
    body = {"product": "wallet", "operation": "transfer", "amount": 1, "currency": "CNY", "accounts": {}}
    post = {"method": "POST", "url": "/v1/transactions", "headers": right}
    return [
        {"method": "GET", "url": "/v1/keys", "headers": {"Authorization": secret}},
        {"method": "GET", "url": "/v1/keys", "headers": {"Authorization": f"Bearer {secret}"}},
        {"method": "GET", "url": "/v1/keys", "headers": {"Authorization": f"Basic {secret}"}},
        {"method": "GET", "url": "/v1/keys", "headers": {"Signature-Input": secret, "Signature": secret}},
        {"method": "GET", "url": "/v1/keys", "headers": {"Signature-Input": f'clearline=("@method");keyid="{secret}"', "Signature": f"clearline=:{secret}=:"}},
        {"method": "GET", "url": "/v1/keys", "headers": {**right, "Clearline-Partner": secret}},
        {"method": "GET", "url": "/v1/keys", "headers": {**right, "Cookie": secret, "Client-Cert": secret}},
        {"method": "GET", "url": f"/v1/keys?cursor={secret}", "headers": right},
        {"method": "GET", "url": f"/v1/keys?limit={secret}", "headers": right},
        {"method": "GET", "url": f"/v1/{secret}", "headers": right},
        {"method": "DELETE", "url": f"/v1/keys/{secret}", "headers": right},
        {"method": "GET", "url": f"/v1/transactions/{secret}", "headers": right},
        {"method": "GET", "url": f"/v1/accounts/{secret}", "headers": right},
        {**post, "headers": {**right, "Idempotency-Key": secret * 9}, "json": body},
        {**post, "headers": {**right, "Prefer": f"wait={secret}"}, "json": body},
        {**post, "headers": {**right, "Content-Type": secret}, "content": b"{}"},
        {**post, "content": secret.encode()},
        {**post, "json": {**body, secret: 1}},
        *({**post, "json": {**body, field: secret}} for field in (*body, "value_date", "original", "metadata", "partner_id", "token")),
        {**post, "json": {**body, "accounts": {"payer": secret, secret: "acme:a"}}},
        {"method": "POST", "url": "/v1/keys", "headers": right, "json": {"scopes": [secret]}},
        {"method": "POST", "url": "/v1/keys", "headers": right, "json": {"scopes": ["read"], "public_key": secret}},
        {"method": "POST", "url": "/v1/keys", "headers": right, "json": {"scopes": ["read"], "thumbprint": secret}},
    ]  # fmt: skip


@pytest.mark.parametrize("secret", [TOKEN, f"whsec_{WORD}"])
def test_a_secret_sent_in_any_place_comes_back_nowhere(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    door = Door(live=True)
    made = door.key()

    async def test() -> None:
        async with door.client() as client:
            for asked in _places(made, secret):
                answer = await client.request(**asked)
                assert answer.status_code < 500, answer.text
                if answer.status_code >= 400:  # what was taken as a product's name is data, and shown to its owner
                    assert WORD not in answer.text, (asked, answer.text)
                    refused.append(asked)
                assert WORD not in str(answer.headers)

    refused: list[Any] = []
    structlog.reset_defaults()
    asyncio.run(test())
    assert len(refused) > 25
    said = capsys.readouterr()
    assert WORD not in said.out + said.err


def test_our_own_mistake_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that quotes the request: the answer does not have it, nor what a role would log of it."""
    door = Door(live=True)
    made = door.key()
    seen: list[Any] = []

    def broken(prefix: str = "") -> Any:
        raise RuntimeError(f"no rows for Authorization: Bearer {made.token}")

    monkeypatch.setattr(door.parts.access, "items", broken)

    def keep(_logger: Any, _method: str, event: Any) -> str:
        seen.append(dict(event))
        return "kept"

    structlog.configure(processors=[structlog.processors.format_exc_info, redaction.redact, keep])
    try:

        async def test() -> None:
            async with door.client(Authorization=f"Bearer {made.token}") as client:
                answer = await client.get("/v1/keys")
                assert (answer.status_code, answer.json()["code"]) == (500, "internal")
                assert answer.json()["detail"] == answer.json()["title"]
                assert "RuntimeError" not in answer.text

        asyncio.run(test())
    finally:
        structlog.reset_defaults()
    assert "RuntimeError" in str(seen)
    assert made.token not in str(seen)


def test_what_is_signed_with_is_not_seen() -> None:
    signer = Signer("4kq7x0m2c9vbt1sd", PRIVATE)
    body = PRIVATE.splitlines()[1]
    assert body not in repr(signer) + str(vars(signer))
    assert PUBLIC.splitlines()[1] not in str(a_request(signer).headers)
