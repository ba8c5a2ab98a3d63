"""Targets: nothing but the public internet is ever connected to, whatever the text, the name or the receiver says."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from clearline.config import WebhookSettings
from clearline.vault import Vault, decode_key
from clearline.webhooks.sender import Sender, Sent, signatures
from clearline.webhooks.targets import TargetRefusedError, check_url, is_public
from schemas.records import Subscription
from tests.contract.test_gateway_tls import Authority
from tests.webhook_world import MASTER_KEY, SECRET, Receiver, subscription

HOSTILE = [
    "http://shop.example/hook", "ftp://shop.example/", "file:///etc/passwd", "gopher://shop.example/", "//shop.example/",
    "javascript:alert(1)", "https://", "https:///hook", "https://user:pass@shop.example/", "https://user@shop.example/",
    "https://shop.example@127.0.0.1/", "https://shop.example/#fragment", "https://localhost/", "https://LOCALHOST/",
    "https://service.internal/", "https://printer.local/", "https://db/", "https://foo.localhost/", "https://1.0.0.127.in-addr.arpa/",
    "https://127.0.0.1/", "https://127.1/", "https://127.000.000.001/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/",
    "https://0177.0.0.1/", "https://0/", "https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.1.1/", "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/", "https://198.18.0.1/", "https://0.0.0.0/", "https://255.255.255.255/", "https://224.0.0.1/", "https://192.0.2.1/",
    "https://[::1]/", "https://[::]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:8.8.8.8]/", "https://[64:ff9b::7f00:1]/", "https://[64:ff9b::808:808]/",
    "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fc00::1]/", "https://[ff02::1]/", "https://[2002:7f00:1::]/", "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/", "https://[::127.0.0.1]/", "https://shop.example:22/", "https://shop.example:80/", "https://shop.example:0/", "https://shop.example:65536/",
    "https://shop.example:port/", "https://shop.example\\@127.0.0.1/", "https://shop.example\r\nHost: evil/", "https://shop.example /", "https://shop.example/\x00",
    "https://１２７.０.０.１/", "https://ⓛocalhost/", "https://shop.example./", "https://-shop.example/", "https://shop..example/", "https://%6c%6f%63alhost/",
    "https://127.0.0.1.:443/", "https://[127.0.0.1]/", "https://[::1/", "https://" + "a" * 64 + ".example/", "https://shop.example/" + "a" * 2_000, "",
]  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_targets_are_refused_as_text(url: str) -> None:
    with pytest.raises(TargetRefusedError):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://shop.example/hooks/clearline", "https://shop.example", "https://shop.example:8443/x?y=1&z=%20", "https://8.8.8.8/", "https://xn--fiq228c.example/",
     "https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]:8443/", "https://a-b.c_d.example:443/", "https://shop.example/a@b:c"],
)  # fmt: skip
def test_public_ones_are_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/", "http://localhost/x", "https://10.0.0.1:22/", "http://[::1]:9/"]
)
def test_private_ones_only_where_the_settings_say_so(url: str) -> None:
    check_url(url, private=True)
    with pytest.raises(TargetRefusedError):
        check_url(url)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_what_is_public_here_is_global_for_python_too(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


@given(
    st.ip_addresses(v=6, network="::ffff:0:0/96")
    | st.ip_addresses(v=6, network="64:ff9b::/96")
    | st.ip_addresses(v=6, network="2002::/16")
    | st.ip_addresses(v=6, network="2001::/32")
)
def test_an_address_inside_of_an_address_is_not_public(address: ipaddress.IPv6Address) -> None:
    assert not is_public(str(address))


# ---- the connection --------------------------------------------------------------------------------------------------


class Names:
    """A resolver whose answers change."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def send(
    s: Subscription, resolve: Names, private: bool = False, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None
) -> Sent:
    async def main() -> Sent:
        vault = Vault(decode_key(MASTER_KEY))
        async with Sender(WebhookSettings(private_targets=private, timeout_s=timeout_s), vault, resolve, tls) as sender:
            return await sender.send(s, "ab" * 16, b'{"a":"\xe9\x92\xb1"}', 1, int(time.time() * 1000))

    return asyncio.run(main())


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["169.254.169.254"], ["8.8.8.8", "10.0.0.1"], ["::1"], ["2606:4700:4700::1111", "fe80::1"], ["::ffff:10.0.0.1"], ["nonsense"]]
)  # fmt: skip
def test_a_name_with_any_address_that_is_not_public_is_not_connected_to(addresses: list[str]) -> None:
    sent = send(subscription("s", "acme", "https://rebind.example/", []), Names(addresses))
    assert (sent.ok, sent.status) == (False, 0)
    assert sent.error.startswith("refused: rebind.example has an address that is not public")
    assert not any(address in sent.error for address in addresses)  # the partner reads it


def test_a_name_that_changes_its_mind_is_asked_once_and_connected_to_where_it_was_checked() -> None:
    """What was checked is what is connected to: a second look-up, which would be private, never happens."""
    receiver = Receiver()
    try:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        url = receiver.url.replace("127.0.0.1", "rebind.example")
        assert send(subscription("s", "acme", url, []), names, private=True).ok
        assert names.asked == ["rebind.example"]
        names = Names(["8.8.8.8"], ["127.0.0.1"])
        names.answers = [["127.0.0.1"], ["8.8.8.8"]]
        sent = send(subscription("s", "acme", url.replace("http:", "https:"), []), names)
        assert "not public" in sent.error
        assert names.asked == ["rebind.example"]
        assert len(receiver.seen()) == 1
    finally:
        receiver.close()


def test_cookies_of_receivers_are_neither_kept_nor_sent() -> None:
    """Otherwise a receiver that sets another one with each answer fills the worker's memory and slows it down."""

    async def main() -> tuple[bool, int, str]:
        s = subscription("s", "acme", f"{receiver.url}/x", [])
        async with Sender(WebhookSettings(private_targets=True), Vault(decode_key(MASTER_KEY))) as sender:
            sent = await sender.send(s, "ab" * 16, b"{}", 1, int(time.time() * 1000))
            request = sender._client.build_request("POST", s.url)
            return sent.ok, len(sender._client.cookies), request.headers.get("cookie", "")

    receiver = Receiver(headers={"Set-Cookie": "seen=1; Path=/"})
    try:
        assert asyncio.run(main()) == (True, 0, "")
    finally:
        receiver.close()


def test_what_nobody_expected_of_a_receiver_is_a_failed_attempt_and_ends_nothing() -> None:
    async def odd(host: str, port: int) -> list[str]:
        raise ValueError("who would have thought")

    sent = send(subscription("s", "acme", "https://odd.example/", []), odd)  # type: ignore[arg-type]
    assert sent == Sent(False, 0, "ValueError: who would have thought")


def test_a_certificate_must_be_the_name_s_not_the_address_s(tmp_path: Path) -> None:
    """The certificate is for localhost and 127.0.0.1: another name that leads there is not taken for it."""
    authority = Authority(tmp_path, "authority")
    paper = authority.issue("receiver")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paper.certificate, paper.key)
    trust = ssl.create_default_context(cafile=str(authority.paper.certificate))
    receiver = Receiver(tls=server)
    try:
        at = Names(["127.0.0.1"])
        for name, taken in (("localhost", True), ("shop.example", False)):
            s = subscription("s", "acme", receiver.url.replace("127.0.0.1", name), [])
            sent = send(s, at, private=True, tls=trust)
            assert (sent.ok, "CERTIFICATE_VERIFY_FAILED" in sent.error) == (taken, not taken)
        s = subscription("s", "acme", receiver.url.replace("127.0.0.1", "localhost"), [])
        assert "CERTIFICATE_VERIFY_FAILED" in send(s, at, private=True).error, "an authority that nobody knows"
        assert len(receiver.seen()) == 1
    finally:
        receiver.close()


def test_a_redirect_is_a_failure_and_is_not_followed() -> None:
    receiver = Receiver(lambda path, _name, _before: 302 if path == "/a" else 200)
    receiver.headers["Location"] = f"{receiver.url}/secret"
    try:
        sent = send(subscription("s", "acme", f"{receiver.url}/a", []), Names(["127.0.0.1"]), private=True)
        assert (sent.ok, sent.status, sent.error) == (False, 302, "answered 302")
        assert [a.path for a in receiver.seen()] == ["/a"]
    finally:
        receiver.close()


def test_a_request_is_signed_with_every_secret_that_is_not_over() -> None:
    receiver = Receiver()
    try:
        s = subscription("s", "acme", receiver.url, [])
        assert send(s, Names(["127.0.0.1"]), private=True).ok
        later = int(time.time() * 1000) + 60_000
        old = msgspec.structs.replace(s.secrets[0], ends_at=later)
        two = msgspec.structs.replace(s, secrets=(*s.secrets, old))
        assert send(two, Names(["127.0.0.1"]), private=True).ok
        over = msgspec.structs.replace(s, secrets=(*s.secrets, msgspec.structs.replace(old, ends_at=1)))
        assert send(over, Names(["127.0.0.1"]), private=True).ok
        assert [(a.verified, a.signatures) for a in receiver.seen()] == [(True, 1), (True, 2), (True, 1)]
    finally:
        receiver.close()


def test_another_secret_or_body_does_not_verify() -> None:
    headers = signatures([SECRET], "id", int(time.time() * 1000), b'{"a":1}')
    Webhook(SECRET).verify(b'{"a":1}', headers)
    for secret, body in ((b"x" * 32, b'{"a":1}'), (SECRET, b'{"a":2}')):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)


def test_what_the_network_does_is_said_in_words() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    s = subscription("s", "acme", "https://shop.example/", [])
    assert "shop.example has no address" in send(s, nowhere).error  # type: ignore[arg-type]
    closed = Receiver()
    closed.close()
    sent = send(subscription("s", "acme", closed.url, []), Names(["127.0.0.1"]), private=True)
    assert sent.error.startswith("ConnectError")


def test_one_that_hangs_is_left_after_its_time() -> None:
    receiver = Receiver(lambda *_: -2_000)
    try:
        sent = send(subscription("s", "acme", receiver.url, []), Names(["127.0.0.1"]), private=True, timeout_s=0.2)
        assert (sent.ok, sent.error) == (False, "no answer within 0.2 s")
    finally:
        receiver.close()


def test_a_secret_that_the_vault_cannot_open_is_a_failure() -> None:
    s = subscription("s", "acme", "https://shop.example/", [], subscription_id="t")
    assert "cannot be opened" in send(s, Names(["8.8.8.8"])).error
