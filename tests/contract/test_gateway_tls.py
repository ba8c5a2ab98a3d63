"""TLS and client certificates by a real uvicorn and a real client, with a certificate authority of the test's own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from clearline import keys
from clearline.config import GatewaySettings
from clearline.gateway.tls import HEAD_BYTES_MAX, tls_options
from clearline.signing import Signer
from schemas.errors import BadInputError
from tests.signed import PRIVATE, PUBLIC, Door
from tests.sink_servers import wait_for


@dataclass(frozen=True)
class Paper:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path
    thumbprint: str


class Authority:
    """Issues certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.paper = self.issue(name, authority=True)

    def issue(self, name: str, *, authority: bool = False) -> Paper:
        key = self._key if authority else ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if not authority:
            here = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(here, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        files[0].write_bytes(made.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Paper(*files, sha256(made.public_bytes(Encoding.DER)).hexdigest())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass
class Served:
    """A gateway that listens with TLS, and what its clients need."""

    door: Door
    url: str
    authority: Authority
    strangers: Authority

    def client(self, paper: Paper | None = None, **headers: str) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.authority.paper.certificate))
        if paper is not None:
            trust.load_cert_chain(str(paper.certificate), str(paper.key))
        return httpx.Client(base_url=self.url, verify=trust, headers=headers)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tls")
    authority, strangers = Authority(folder, "authority"), Authority(folder, "strangers")
    own = authority.issue("gateway")
    door = Door(live=True, certificate=own.certificate, key=own.key, client_ca=authority.paper.certificate)
    options = tls_options(door.parts.settings.gateway)
    config = uvicorn.Config(door.app, host="127.0.0.1", port=0, log_level="critical", log_config=None, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for("uvicorn", lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(door, f"https://localhost:{port}", authority, strangers)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def answer(served: Served, made: keys.Made, paper: Paper | None = None, **headers: str) -> tuple[int, str]:
    with served.client(paper, Authorization=f"Bearer {made.token}", **headers) as client:
        found = client.get("/v1/keys")
    return found.status_code, found.json().get("code", "")


def test_a_key_of_no_certificate_needs_none(served: Served) -> None:
    assert answer(served, served.door.key()) == (200, "")
    assert answer(served, served.door.key(), served.authority.issue("anybody")) == (200, "")


def test_a_bound_key_needs_its_certificate(served: Served) -> None:
    mine, other = served.authority.issue("mine"), served.authority.issue("other")
    bound = served.door.key(thumbprint=mine.thumbprint)
    assert answer(served, bound, mine) == (200, "")
    assert answer(served, bound, other) == (401, "certificate_required")
    assert answer(served, bound) == (401, "certificate_required")
    assert answer(served, bound, mine) == (200, "")  # each connection shows its own


def test_a_header_is_no_certificate_when_no_proxy_is_trusted(served: Served) -> None:
    import base64

    mine = served.authority.issue("header")
    der = x509.load_pem_x509_certificate(mine.certificate.read_bytes()).public_bytes(Encoding.DER)
    bound = served.door.key(thumbprint=mine.thumbprint)
    shown = {"Client-Cert": f":{base64.b64encode(der).decode()}:", "X-Forwarded-For": "127.0.0.1"}
    assert answer(served, bound, None, **shown) == (401, "certificate_required")


def test_a_certificate_of_another_authority_is_refused_in_the_handshake(served: Served) -> None:
    stranger = served.strangers.issue("stranger")
    bound = served.door.key(thumbprint=stranger.thumbprint)
    with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
        answer(served, bound, stranger)


def test_a_signature_over_a_real_connection(served: Served) -> None:
    mine = served.authority.issue("signs")
    made = served.door.key(
        public_key=keys.read_public_key(PUBLIC), signature="required", thumbprint=mine.thumbprint
    )  # fmt: skip
    signer = Signer(made.key.key_id, PRIVATE)
    with served.client(mine) as client:
        for url in ("/v1/keys", "/v1/keys?limit=1", "/v1/keys?cursor=%21"):
            found = client.get(url, auth=signer, headers={"Clearline-Partner": "acme/shop-17"})
            assert found.status_code == (400 if "cursor" in url else 200), found.text
        written = client.post("/v1/keys", json={"scopes": ["read"]}, auth=signer, headers={"Idempotency-Key": "1"})
        assert written.status_code == 201
        gone = client.delete(written.headers["location"], auth=signer, headers={"Idempotency-Key": "2"})
        assert gone.status_code == 204
    with served.client() as client:
        assert client.get("/v1/keys", auth=signer).json()["code"] == "certificate_required"


def test_a_body_too_large_is_refused_before_it_is_read(served: Served) -> None:
    made = served.door.key()
    bytes_max = served.door.parts.settings.gateway.body_bytes_max
    headers = {"Authorization": f"Bearer {made.token}", "Content-Type": "application/json", "Idempotency-Key": "1"}

    def pieces() -> Iterator[bytes]:
        for _ in range(bytes_max // 10_000 + 2):
            yield b" " * 10_000

    with served.client(None, **headers) as client:
        declared = client.post("/v1/keys", content=b" " * (bytes_max + 1))
        assert (declared.status_code, declared.json()["code"]) == (413, "body_too_large")
        chunked = client.post("/v1/keys", content=pieces())
        assert (chunked.status_code, chunked.json()["code"]) == (413, "body_too_large")
        assert client.get("/v1/keys").status_code == 200


def test_half_of_a_pair_and_missing_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("")
    for settings, words in (
        (GatewaySettings(certificate=file), "go together"),
        (GatewaySettings(client_ca=file), "needs CLEARLINE_GATEWAY__CERTIFICATE"),
        (GatewaySettings(certificate=file, key=tmp_path / "none"), "is not a file"),
    ):
        with pytest.raises(BadInputError, match=words):
            tls_options(settings)
    assert set(tls_options(GatewaySettings())) == {"http", "ws", "proxy_headers"}
    with pytest.raises(BadInputError, match="TRUSTED_PROXIES"):
        tls_options(GatewaySettings(trusted_proxies=["proxy.example"]))


def sent(served: Served, *pieces: bytes) -> bytes:
    """What comes back, to its end, when these bytes are sent as they stand."""
    trust = ssl.create_default_context(cafile=str(served.authority.paper.certificate))
    port = int(served.url.rpartition(":")[2])
    with trust.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname="localhost") as s:
        found = b""
        with suppress(ConnectionError, ssl.SSLError):  # closed while there was more to send
            for piece in pieces:
                s.sendall(piece)
        with suppress(ConnectionError, ssl.SSLError):
            while part := s.recv(65_536):  # TimeoutError: it waits for more
                found += part
    return found


START = b"POST /v1/keys HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /" + b"a" * HEAD_BYTES_MAX],
        [START, b"x: ", *[b"a" * 10_000] * 8],
        [START, *[b"x: 1\r\n" * 1_000] * 12],
        [CHUNKED, b"0\r\n", *[b"x: 1\r\n" * 1_000] * 12],
        [CHUNKED, b"1;", *[b"a" * 10_000] * 8],
    ],
    ids=["path", "header", "headers", "trailers", "extension of a chunk"],
)
def test_a_head_without_end_is_not_kept_in_memory(served: Served, pieces: list[bytes]) -> None:
    """It is there before anybody has been asked for a credential. uvicorn sets no limit."""
    assert served.door.parts.settings.gateway.body_bytes_max > HEAD_BYTES_MAX
    found = sent(served, *pieces)
    assert b" 431 " in found or b" 401 " in found or not found  # a reset may come before the answer is read
    assert len(found) < 2_000


def test_a_body_in_small_chunks_is_no_head(served: Served) -> None:
    """A body may be longer than a head, and come in pieces; requests may follow each other without waiting."""
    bodies = [b"1000\r\n" + b" " * 4096 + b"\r\n"] * 40
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    many = (get + b"\r\n") * 2_500 + get + b"Connection: close\r\n\r\n"
    assert len(many) > HEAD_BYTES_MAX
    assert sent(served, many).count(b"HTTP/1.1 200 ") == 2_501
    last = get + b"Connection: close\r\n\r\n"
    found = sent(served, CHUNKED, *bodies, b"0\r\n\r\n", last)
    assert found.startswith(b"HTTP/1.1 401 ") and b"HTTP/1.1 200 " in found
