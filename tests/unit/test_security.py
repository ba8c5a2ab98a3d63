"""Who gets in: a key, a signature over exactly what was sent, a certificate; and what nobody learns who does not."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from typing import Any

import httpx
import msgspec
import pytest
from http_message_signatures import HTTPMessageSigner
from http_message_signatures.algorithms import ED25519
from hypothesis import given
from hypothesis import strategies as st

from clearline import keys
from clearline.gateway.principal import Principal
from clearline.gateway.problems import OWN, Problem, document
from clearline.signing import COVERED, COVERED_HEADERS, DIGEST, Signer, new_key_pair, read_private_key
from schemas.errors import BadInputError
from tests.signed import AUTHORITY, PRIVATE, PUBLIC, Door, Raw, a_request, raw

DOOR = Door(live=True, trusted_proxies=["10.9.0.0/16", "::1"])
SIGNER = DOOR.signer()
KEY = DOOR.key()
CERTIFICATE = b"what stands in for a certificate in DER"
THUMBPRINT = sha256(CERTIFICATE).hexdigest()
IN = "acme/shop-17"


# Keys.


def test_a_key_lets_in_whose_it_is() -> None:
    assert DOOR.ask(a_request(token=KEY.token)) == IN
    assert DOOR.ask(a_request(token=KEY.token).with_header(b"clearline-partner", None)) == "acme"
    lower = a_request().with_line(b"authorization", b"bearer " + KEY.token.encode())
    assert DOOR.ask(lower) == IN


@given(st.data())
def test_any_changed_character_of_a_token_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(KEY.token) - 1))
    other = data.draw(
        st.sampled_from([c for c in string.printable if c != KEY.token[at] and c not in "\n\r\x0b\x0c\t "])
    )
    changed = KEY.token[:at] + other + KEY.token[at + 1 :]
    assert DOOR.ask(a_request(token=changed)) == "unauthenticated"


@pytest.mark.parametrize(
    "token", ["", "x", KEY.token[:-1], KEY.token + "A", KEY.token.replace("test_", "live_"), "test__"]
)
def test_what_is_no_token_of_this_world_is_refused(token: str) -> None:
    assert DOOR.ask(a_request().with_line(b"authorization", b"Bearer " + token.encode())) == "unauthenticated"


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Basic " + base64.b64encode(b"a:b"), b"\xff\xfe", KEY.token.encode()]
)
def test_another_scheme_is_refused(header: bytes) -> None:
    assert DOOR.ask(a_request().with_line(b"authorization", header)) == "unauthenticated"


def test_no_credential_is_refused() -> None:
    assert DOOR.ask(a_request()) == "unauthenticated"


def test_a_key_of_another_world_opens_nothing() -> None:
    live = Door(world="live")
    made = live.key()
    assert made.token.startswith("live_")
    assert live.ask(a_request(token=made.token)) == IN
    assert DOOR.ask(a_request(token=made.token)) == "unauthenticated"
    DOOR.put(made.key)  # even if its row were there
    assert DOOR.ask(a_request(token=made.token)) == "unauthenticated"
    assert live.ask(a_request(DOOR.signer())) == "signature_invalid"


def test_a_key_ends_at_its_time_and_at_once_when_revoked() -> None:
    door = Door()
    made = door.key(expires_at=door.now_ms + 1_000)
    assert door.ask(a_request(token=made.token)) == IN
    door.now_ms += 999
    assert door.ask(a_request(token=made.token)) == IN
    door.now_ms += 1
    assert door.ask(a_request(token=made.token)) == "unauthenticated"
    other = door.key(public_key=keys.read_public_key(PUBLIC))
    door.put(keys.revoke(other.key, door.now_ms))
    assert door.ask(a_request(token=other.token)) == "unauthenticated"
    assert door.ask(a_request(Signer(other.key.key_id, PRIVATE))) == "unauthenticated"


def test_rotation_has_both_keys_taken_until_the_overlap_is_over() -> None:
    door = Door()
    old = door.key(scopes=["read"])
    new, ending = keys.rotate(old.key, sandbox=True, now_ms=door.now_ms, overlap_ms=60_000, requested_by="bank:test")
    door.put(new.key)
    door.put(ending)
    assert new.key.scopes == "read"
    assert new.key.replaces == old.key.key_id
    assert door.ask(a_request(token=old.token)) == door.ask(a_request(token=new.token)) == IN
    door.now_ms += 60_000
    assert door.ask(a_request(token=old.token)) == "unauthenticated"
    assert door.ask(a_request(token=new.token)) == IN
    with pytest.raises(keys.KeyFieldError):
        keys.rotate(ending, sandbox=True, now_ms=door.now_ms, overlap_ms=0, requested_by="bank:test")
    sooner = msgspec.structs.replace(new.key, expires_at=door.now_ms + 5)
    assert keys.ending(sooner, door.now_ms, 60_000).expires_at == door.now_ms + 5


def test_only_a_hash_of_the_secret_is_kept() -> None:
    secret = KEY.token.rpartition("_")[2] if KEY.token.count("_") == 2 else KEY.token[22:]
    assert secret.encode() not in msgspec.msgpack.encode(KEY.key)
    assert len(KEY.key.secret_hash) == 32
    assert len({DOOR.key().token for _ in range(50)}) == 50


def test_a_partner_acts_for_itself_and_below() -> None:
    shop = DOOR.key(IN)
    for named, answer in (
        ("acme/shop-17", IN), ("acme/shop-17/desk", "acme/shop-17/desk"), ("acme", "forbidden"), ("acme/shop-170", "forbidden"),
        ("acme/shop-18", "forbidden"), ("bank", "forbidden"), ("zeta", "forbidden"), ("acme/shop-17/", "forbidden"),
        ("acme/shop-17/../shop-18", "forbidden"), ("ACME/shop-17", "forbidden"), ("", "forbidden"),
    ):  # fmt: skip
        asked = a_request(token=shop.token).with_header(b"clearline-partner", named.encode())
        assert DOOR.ask(asked) == answer, named


def test_a_key_of_the_bank_reads_reports_and_does_nothing_else() -> None:
    for partner in ("bank/desk", "", "A"):
        with pytest.raises(keys.KeyFieldError, match="no partner that may have keys"):
            DOOR.key(partner)
    for scopes in (
        keys.ALL_SCOPES,
        ("read",),
        ("reports", "read"),
        ("reports", "keys"),
        ("data",),
        ("reports", "transact:*:*"),
    ):
        with pytest.raises(keys.KeyFieldError, match="scopes of reports, status, operate and no other"):
            DOOR.key("bank", scopes)
    held = DOOR.key("bank", ("reports",))
    assert DOOR.ask(a_request(token=held.token).with_header(b"clearline-partner", None)) == "bank"
    for named in ("acme", "bank/desk", "zeta", ""):
        assert DOOR.ask(a_request(token=held.token).with_header(b"clearline-partner", named.encode())) == "forbidden"
    made, _ = keys.rotate(held.key, sandbox=True, now_ms=DOOR.now_ms, overlap_ms=0, requested_by="bank:test")
    assert made.key.scopes == "reports"


def test_scopes_of_the_staff_are_no_partners_and_who_changes_things_has_a_name() -> None:
    for scope in ("status", "operate"):
        with pytest.raises(keys.KeyFieldError, match=f"{scope} is for keys of the bank's staff only"):
            DOOR.key("acme", ("read", scope))
    with pytest.raises(keys.KeyFieldError, match="holder"):
        DOOR.key("acme", ("read",), holder="li.wei")
    with pytest.raises(keys.KeyFieldError, match="holder: is missing"):
        DOOR.key("bank", ("status", "operate"))
    for wrong in ("Li", "li wei", "-li", "l" * 65):
        with pytest.raises(keys.KeyFieldError, match="holder: must be"):
            DOOR.key("bank", ("operate",), holder=wrong)
    held = DOOR.key("bank", ("status", "operate", "reports"), holder="li.wei")
    made, _ = keys.rotate(held.key, sandbox=True, now_ms=DOOR.now_ms, overlap_ms=0, requested_by="bank:test")
    assert (made.key.scopes, made.key.holder) == ("operate reports status", "li.wei")


def test_only_a_key_of_the_bank_sees_all_figures_and_it_sees_nothing_else() -> None:
    bank = Principal("k", "bank", "bank", frozenset({"reports"}))
    assert bank.sees_all_figures
    for partner in ("bank", "bank/desk", "acme", "acme/shop-17", ""):
        assert not bank.sees(partner)
        assert not bank.sees_account(f"{partner}:wallet:till")
    for partner, scopes in (("bank", ()), ("bank", ("read",)), ("acme", ("reports",)), ("bank/desk", ("reports",))):
        assert not Principal("k", partner, partner, frozenset(scopes)).sees_all_figures


# Nothing is told about keys of others.


def test_every_refusal_of_a_wrong_credential_is_the_same() -> None:
    door = Door()
    held = door.key(signature="required", public_key=keys.read_public_key(PUBLIC), thumbprint="0" * 64)
    gone, late = door.key(), door.key(expires_at=door.now_ms + 1)
    door.put(keys.revoke(gone.key, door.now_ms))
    door.now_ms += 10
    wrong = [made.token[:-43] + "A" * 43 for made in (held, gone, late)]  # a secret may have a _ of its own
    nobody = f"test_{'z' * 16}_{'A' * 43}"
    assert {_told(door, a_request(token=t)) for t in (*wrong, nobody, "junk")} == {("unauthenticated", "")}
    assert {_told(door, a_request(token=t.token)) for t in (gone, late)} == {("unauthenticated", "")}
    other = Signer(held.key.key_id, new_key_pair()[0])
    without = Signer(door.key().key.key_id, PRIVATE)
    unknown = Signer("z" * 16, PRIVATE)
    told = {_told(door, a_request(s)) for s in (other, without, unknown)}
    assert len(told) == 1
    assert told.pop()[0] == "signature_invalid"


def _told(door: Door, asked: Raw) -> tuple[str, str]:
    from fastapi import Request

    from clearline.gateway.security import principal

    with pytest.raises(Problem) as refused:
        asyncio.run(principal(Request(asked.scope(door.app), asked.receive())))
    return refused.value.code, refused.value.detail


def test_what_a_key_demands_is_told_to_who_holds_it() -> None:
    door = Door()
    made = door.key(signature="required", public_key=keys.read_public_key(PUBLIC))
    assert door.ask(a_request(token=made.token)) == "signature_required"
    assert door.ask(a_request(Signer(made.key.key_id, PRIVATE))) == IN
    bound = door.key(thumbprint=THUMBPRINT)
    assert door.ask(a_request(token=bound.token)) == "certificate_required"


# Signatures.


def test_a_signed_request_needs_no_secret() -> None:
    assert DOOR.ask(a_request(SIGNER)) == IN
    for method, url in (("GET", "/v1/partner"), ("GET", "/v1/limits?"), ("DELETE", "/v1/keys/x?a=b"), ("POST", "/")):
        request = httpx.Request(method, f"https://{AUTHORITY}{url}")
        SIGNER.sign(request)
        assert DOOR.ask(raw(request)) == "acme", (method, url)
    request = httpx.Request("POST", f"https://{AUTHORITY}/v1/x", content=b"")
    SIGNER.sign(request)
    assert DOOR.ask(raw(request)) == "acme"


def test_with_a_key_beside_the_signature_both_must_be_right_and_of_one_key() -> None:
    door = Door()
    made = door.key(public_key=keys.read_public_key(PUBLIC))
    signer = Signer(made.key.key_id, PRIVATE)
    assert door.ask(a_request(signer, made.token)) == IN
    assert door.ask(a_request(signer, made.token[:-2] + "AA")) == "unauthenticated"
    assert door.ask(a_request(signer, door.key().token)) == "unauthenticated"


def test_another_label_beside_ours_is_left_alone() -> None:
    asked = a_request(SIGNER)
    both = asked.with_line(b"signature-input", b'proxy=("@method");created=1;keyid="p"').with_line(
        b"signature", b"proxy=:AAAA:"
    )
    assert DOOR.ask(both) == IN
    proxied = a_request(token=KEY.token).with_line(b"signature-input", b'proxy=("@method");created=1;keyid="p"')
    assert DOOR.ask(proxied) == IN
    assert DOOR.ask(a_request().with_line(b"signature-input", b'proxy=("@method");created=1')) == "signature_invalid"


@cache
def _signed() -> Raw:
    return a_request(SIGNER)


_PLACES: tuple[bytes | str, ...] = (
    "method", "path", "query", "body", b"host", b"idempotency-key", b"clearline-partner", b"prefer", b"content-digest",
    b"signature-input", b"signature",
)  # fmt: skip


def _change(place: bytes | str, change: Callable[[bytes], bytes]) -> tuple[Raw, bytes, bytes]:
    asked = _signed()
    before = getattr(asked, place) if isinstance(place, str) else asked.value(place)
    after = change(before)
    changes: dict[str, Any] = {str(place): after}
    changed = replace(asked, **changes) if isinstance(place, str) else asked.with_header(place, after)
    return changed, before, after


def _must_be_refused(place: bytes | str, change: Callable[[bytes], bytes]) -> bool:
    changed, before, after = _change(place, change)
    if _is_the_same(place, before, after):
        return False  # what is signed is a meaning: a host in capitals, spaces around a value
    answer = DOOR.ask(changed)
    assert answer in ("signature_invalid", "signature_expired", "unauthenticated"), (place, after, answer)
    return True


@pytest.mark.parametrize("place", _PLACES, ids=str)
def test_a_request_is_refused_whichever_byte_was_changed(place: bytes | str) -> None:
    _, before, _ = _change(place, lambda b: b)
    refused = 0
    for at in range(len(before)):
        for byte in (bytes([before[at] ^ 1]), bytes([before[at] ^ 0x20]), b"", b"0" + before[at : at + 1]):
            refused += _must_be_refused(place, lambda b, at=at, byte=byte: b[:at] + byte + b[at + 1 :])  # type: ignore[misc]
    assert refused > 2 * len(before)


@given(st.data())
def test_a_request_is_refused_however_it_was_changed(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(_PLACES))
    piece = data.draw(st.binary(max_size=6).filter(lambda p: not {*b"\r\n\0"} & {*p}))
    at, gone = data.draw(st.integers(0, 300)), data.draw(st.integers(0, 6))
    _must_be_refused(place, lambda b: b[: at % len(b)] + piece + b[at % len(b) + gone :])


def _is_the_same(place: object, before: bytes, after: bytes) -> bool:
    if place == b"host":
        return before.lower() == after.lower().strip(b" \t")
    if place in (b"signature", b"signature-input"):
        return bool(_parsed(before) == _parsed(after))
    return bool(before == (after.strip(b" \t") if isinstance(place, bytes) else after))


def _parsed(value: bytes) -> Any:
    import http_sf

    try:
        return repr(http_sf.parse(value, tltype="dictionary"))
    except ValueError:
        return value


def test_a_request_without_one_of_its_signed_headers_is_refused() -> None:
    for name, _ in _signed().headers:
        answer = DOOR.ask(a_request(SIGNER).with_header(name, None))
        missing = "unauthenticated" if name == b"signature-input" else "signature_invalid"
        assert answer == (missing if name in _PLACES else IN), name


@pytest.mark.parametrize("name", [b"idempotency-key", b"clearline-partner", b"prefer", b"content-digest", b"host"])
def test_a_second_line_of_a_signed_header_is_refused(name: bytes) -> None:
    asked = a_request(SIGNER)
    assert DOOR.ask(asked.with_line(name, asked.value(name))) == "signature_invalid"
    assert DOOR.ask(replace(asked, headers=((name, b"x"), *asked.headers))) == "signature_invalid"


def test_a_header_that_decides_something_may_not_be_added() -> None:
    request = httpx.Request("POST", f"https://{AUTHORITY}/v1/transactions", json={"a": 1})
    SIGNER.sign(request)
    for name in COVERED_HEADERS:
        assert DOOR.ask(raw(request).with_line(name.encode(), b"acme/shop-17")) == "signature_invalid"
    assert DOOR.ask(raw(request)) == "acme"


def test_a_piece_of_the_path_cannot_be_moved_into_the_host() -> None:
    asked = a_request(SIGNER)
    for host, path in (
        (AUTHORITY + "/v1", b"/accounts/acme%2Fshop-17:till"),
        (AUTHORITY + "/v1/accounts?x=", b"/acme"),
    ):
        moved = replace(asked.with_header(b"host", host.encode()), path=path)
        assert DOOR.ask(moved) == "signature_invalid"
    assert DOOR.ask(asked.with_header(b"host", b"somebody@" + AUTHORITY.encode())) == "signature_invalid"
    assert DOOR.ask(replace(asked, query=asked.query + b"#x")) == "signature_invalid"
    assert DOOR.ask(replace(asked, path=asked.path + b"#", query=b"")) == "signature_invalid"


def test_a_request_is_taken_once() -> None:
    asked = a_request(SIGNER)
    assert DOOR.ask(asked) == IN
    assert DOOR.ask(asked) == "signature_replayed"
    other = DOOR.signer()
    assert DOOR.ask(a_request(other)) == IN


def test_what_was_refused_has_not_used_its_nonce_up() -> None:
    asked = a_request(SIGNER)
    assert DOOR.ask(replace(asked, body=b"{}")) == "signature_invalid"
    assert DOOR.ask(asked) == IN


@pytest.mark.parametrize(
    ("later_ms", "answer"),
    [(299_000, IN), (301_100, "signature_expired"), (-290_000, IN), (-301_100, "signature_expired")],
)
def test_a_signature_is_of_about_now(later_ms: int, answer: str) -> None:
    door = Door()
    asked = a_request(door.signer())
    door.now_ms += later_ms
    assert door.ask(asked) == answer


def test_a_nonce_is_remembered_for_as_long_as_its_signature_could_be_taken() -> None:
    door = Door()
    door.now_ms -= 290_000
    asked = a_request(door.signer())
    assert door.ask(asked) == IN
    door.now_ms += 585_000
    assert door.ask(asked) == "signature_replayed"


def _signed_by_hand(door: Door, **how: Any) -> Raw:
    """A request that a careless client signed. `covered`, `nonce`, `label`, `expires`, `include_alg`, `key_id`."""
    made = door.key(public_key=keys.read_public_key(PUBLIC))
    request = httpx.Request(
        "POST", f"https://{AUTHORITY}/v1/x?a=1", json={"a": 1},
        headers={"Idempotency-Key": "1", "Clearline-Partner": "acme", "Prefer": "wait=1"},
    )  # fmt: skip
    options: dict[str, Any] = {
        "key_id": made.key.key_id, "nonce": secrets.token_urlsafe(24), "label": "clearline",
        "covered_component_ids": (*COVERED, *COVERED_HEADERS, DIGEST), "use_existing_digest": True,
    }  # fmt: skip
    request.headers["Content-Digest"] = _digest(request.content)
    HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=Signer("x", PRIVATE)).sign(
        request, **{**options, **how}
    )
    return raw(request)


def _digest(body: bytes) -> str:
    from http_message_signatures.digests import ContentDigest

    return ContentDigest.create(body)


def test_what_is_signed_by_hand_as_the_page_says_is_taken() -> None:
    assert DOOR.ask(_signed_by_hand(DOOR)) == "acme"


@pytest.mark.parametrize("left_out", [*COVERED, *COVERED_HEADERS, DIGEST])
def test_what_does_not_cover_all_that_matters_is_refused(left_out: str) -> None:
    covered = tuple(c for c in (*COVERED, *COVERED_HEADERS, DIGEST) if c != left_out)
    asked = _signed_by_hand(DOOR, covered_component_ids=covered)
    assert _told(DOOR, asked) == ("signature_invalid", f"the signature does not cover {left_out}")


@pytest.mark.parametrize(
    ("how", "words"),
    [({"nonce": "n" * 15}, "nonce"), ({"nonce": "n" * 65}, "nonce"), ({"nonce": None}, "nonce"), ({"label": "other"}, "label"),
     ({"include_alg": False}, "alg"), ({"key_id": "K" * 16}, "keyid")],
)  # fmt: skip
def test_what_a_signature_must_say_is_named(how: dict[str, Any], words: str) -> None:
    code, detail = _told(DOOR, _signed_by_hand(DOOR, **how))
    assert code == "signature_invalid"
    assert words in detail


def test_a_signatures_own_end_counts() -> None:
    from datetime import UTC, datetime

    door = Door()
    soon = datetime.fromtimestamp(door.now_ms // 1000 + 10, UTC)
    assert door.ask(_signed_by_hand(door, expires=soon)) == "acme"
    asked = _signed_by_hand(door, expires=soon)
    door.now_ms += 12_000
    assert door.ask(asked) == "signature_expired"


def test_a_digest_must_be_of_the_body() -> None:
    asked = a_request(SIGNER)
    assert _told(DOOR, replace(asked, body=asked.body + b" ")) == (
        "signature_invalid", "Content-Digest is missing, or is not the digest of the body",
    )  # fmt: skip


@given(st.sampled_from([b"signature-input", b"signature"]), st.binary(max_size=80))
def test_junk_is_a_refusal_and_no_error(name: bytes, junk: bytes) -> None:
    assert DOOR.ask(a_request(SIGNER).with_header(name, junk)) in ("signature_invalid", "signature_expired")
    assert DOOR.ask(a_request(SIGNER).with_header(name, b"clearline=" + junk)) in (
        "signature_invalid",
        "signature_expired",
    )


def test_private_keys_are_read_or_refused_unseen() -> None:
    assert read_private_key(PRIVATE).public_key() == read_private_key(PRIVATE.encode()).public_key()
    for pem in ("canary", PUBLIC, PRIVATE[:60]):
        with pytest.raises(BadInputError) as refused:
            read_private_key(pem)
        assert pem not in str(refused.value)


def test_public_keys_in_every_form() -> None:
    key = keys.read_public_key(PUBLIC)
    for form in (key.hex(), base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode().rstrip("="), PUBLIC):
        assert keys.read_public_key(form) == key
    for wrong in ("", "x", "00" * 31, "zz" * 32, PRIVATE, PUBLIC.replace("MCow", "MCox")):
        with pytest.raises(keys.KeyFieldError):
            keys.read_public_key(wrong)


# Certificates.


def _client_cert(certificate: bytes) -> bytes:
    return b":" + base64.b64encode(certificate) + b":"


def test_a_bound_key_is_taken_with_its_certificate_only() -> None:
    bound = DOOR.key(thumbprint=THUMBPRINT)
    asked = a_request(token=bound.token)
    shown = {"client_certificate": THUMBPRINT}
    assert DOOR.ask(asked) == "certificate_required"
    assert DOOR.ask(replace(asked, state=shown)) == IN
    assert DOOR.ask(replace(asked, state={"client_certificate": "0" * 64})) == "certificate_required"
    signed = a_request(DOOR.signer(thumbprint=THUMBPRINT))
    assert DOOR.ask(signed) == "certificate_required"
    assert DOOR.ask(replace(a_request(DOOR.signer(thumbprint=THUMBPRINT)), state=shown)) == IN


@pytest.mark.parametrize(
    ("peer", "answer"),
    [("10.9.1.1", IN), ("::1", IN), ("10.8.1.1", "certificate_required"), ("", "certificate_required")],
)
def test_a_proxys_word_counts_when_it_is_trusted(peer: str, answer: str) -> None:
    asked = a_request(token=DOOR.key(thumbprint=THUMBPRINT).token).with_line(b"client-cert", _client_cert(CERTIFICATE))
    assert DOOR.ask(replace(asked, client=(peer, 1))) == answer


def test_a_proxy_does_not_lend_its_own_certificate() -> None:
    own = {"client_certificate": THUMBPRINT}
    asked = replace(a_request(token=DOOR.key(thumbprint=THUMBPRINT).token), client=("10.9.1.1", 1))
    assert DOOR.ask(replace(asked, state=own)) == "certificate_required"
    for header in (b"", b"::", b":!:", base64.b64encode(CERTIFICATE), _client_cert(b"another")):
        assert DOOR.ask(asked.with_line(b"client-cert", header)) == "certificate_required"
    twice = asked.with_line(b"client-cert", _client_cert(CERTIFICATE)).with_line(b"client-cert", _client_cert(b"x"))
    assert DOOR.ask(twice) == "certificate_required"


# Limits of calls, and the size of bodies.


def test_every_answer_to_a_known_caller_says_what_is_left() -> None:
    door = Door(rate_per_s=10, burst=3, calls_per_day=5)
    made = door.key(scopes=["read"])

    async def test() -> None:
        async with door.client(Authorization=f"Bearer {made.token}") as client:
            first = await client.get("/v1/keys")  # 403: a known caller all the same
            assert (first.status_code, first.json()["code"]) == (403, "scope_missing")
            assert first.headers["ratelimit-policy"] == '"burst";q=3;w=1, "day";q=5;w=86400'
            assert re.fullmatch(r'"burst";r=2;t=1, "day";r=4;t=\d+', first.headers["ratelimit"])
            forbidden = await client.get("/v1/keys", headers={"Clearline-Partner": "zeta"})
            assert (forbidden.status_code, '"burst";r=1;' in forbidden.headers["ratelimit"]) == (403, True)
            await client.get("/v1/keys")
            over = await client.get("/v1/keys")
            assert (over.status_code, over.json()["code"], over.headers["retry-after"]) == (429, "rate_limited", "1")
            assert '"burst";r=0;' in over.headers["ratelimit"]
            door.now_ms += 1_000
            await client.get("/v1/keys")
            await client.get("/v1/keys")
            spent = await client.get("/v1/keys")
            assert (spent.status_code, spent.json()["code"]) == (429, "quota_exceeded")
            assert 0 < int(spent.headers["retry-after"]) <= 86_400
            stranger = await client.get("/v1/keys", headers={"Authorization": "Bearer x"})
            assert (stranger.status_code, "ratelimit" in stranger.headers) == (401, False)
            assert stranger.headers["www-authenticate"] == "Bearer"

    asyncio.run(test())


def test_a_tree_has_one_bucket() -> None:
    door = Door(rate_per_s=0.001, burst=2)
    one, two, other = door.key("acme"), door.key("acme/shop-17"), door.key("zeta")
    answers = [
        door.ask(a_request(token=t.token).with_header(b"clearline-partner", None)) for t in (one, two, one, two, other)
    ]
    assert answers == ["acme", IN, "rate_limited", "rate_limited", "zeta"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "bytes_max"), [("/v1/keys", 2_000), ("/v1/transactions:batch", 20_000)])
def test_a_body_too_large_is_refused_however_it_comes(path: str, bytes_max: int, chunked: bool) -> None:
    door = Door(body_bytes_max=2_000)
    headers = {
        "Authorization": f"Bearer {door.key().token}",
        "Idempotency-Key": "1",
        "Content-Type": "application/json",
    }

    async def test(size: int) -> httpx.Response:
        async def pieces() -> Any:
            for _ in range(0, size, 100):
                yield b" " * 100

        async with door.client(**headers) as client:
            return await client.post(path, content=pieces() if chunked else b" " * size)

    for size, too_large in ((bytes_max, False), (bytes_max + 100, True)):
        answer = asyncio.run(test(size))
        assert (answer.status_code == 413) is too_large, answer.text
        assert (answer.json()["code"] == "body_too_large") is too_large
        assert answer.headers["content-type"] == "application/problem+json"


def test_codes_of_this_page_have_their_status() -> None:
    for code in (
        "unauthenticated",
        "signature_required",
        "signature_invalid",
        "signature_expired",
        "signature_replayed",
        "certificate_required",
    ):
        assert OWN[code].status == 401
    assert document(Problem("rate_limited"), "https://x", "urn:uuid:1")["status"] == 429
