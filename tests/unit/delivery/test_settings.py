"""The address, the key and the secret of TaskMaster, right and wrong."""

import socket
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_httpserver import HTTPServer

from lmstack.delivery import poster
from lmstack.delivery.contract import Target, target_from
from lmstack.delivery.poster import Poster
from lmstack.ledger.outbox import RunOutcome
from posts import EVENT, post


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("http://tm", "", "http://tm/api/litellm/log"),
        ("http://tm/", "/x", "http://tm/x"),
        (" http://tm/base// ", "x/y", "http://tm/base/x/y"),
        ("http://[::1]:3001", "", "http://[::1]:3001/api/litellm/log"),
        ("http://user:pass@tm", "", "http://user:pass@tm/api/litellm/log"),
    ],
)
def test_the_address_in_its_forms(base: str, path: str, url: str) -> None:
    target = target_from({"TASKMASTER_API_URL": base, "TASKMASTER_EVENTS_PATH": path, "TASKMASTER_API_KEY": " key\n"})
    assert target is not None
    assert (target.url, target.api_key) == (url, "key")
    assert "key" not in repr(target).replace("api_key", "")


@pytest.mark.parametrize(("key", "sent"), [("key", "Bearer key"), ("", "Basic dXNlcjpwYXNz")])
def test_a_key_goes_before_a_user_and_password_in_the_address(httpserver: HTTPServer, key: str, sent: str) -> None:
    httpserver.expect_request("/e").respond_with_data("")
    assert post(Target(httpserver.url_for("/e").replace("http://", "http://user:pass@"), key)).delivered == 1
    assert httpserver.log[0][0].headers["authorization"] == sent


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_ipv6_address(httpserver: HTTPServer) -> None:
    try:
        server = HTTPServer(host="::1")
        server.start()
    except OSError:
        pytest.skip("no IPv6 here")
    server.expect_request("/e").respond_with_data("")
    assert post(Target(f"http://[::1]:{server.port}/e")).delivered == 1
    server.stop()


@pytest.mark.parametrize(
    "target",
    [
        Target("http://127.0.0.1:1/e", "s3cret-key\nx: y"),
        Target("http://127.0.0.1:1/e", "s3cret-käy"),
        Target("http://127.0.0.1:1/e", "s3cret-\ud800"),
        Target("http://user:s3cret@127.0.0.1:1/e"),
        Target("http://user:s3cret/x@127.0.0.1/e"),
        Target("http://user:s3cret@[::1/e"),
        Target("s3cret:3001/e"),
        Target("ftp://user:s3cret@tm/e"),
        Target("http://127.0.0.1:1/e", secret="whsec_s3cret!"),
    ],
    ids=repr,
)
def test_what_cannot_be_sent_names_no_secret(target: Target) -> None:
    made = Poster(target, lambda: False)
    with made.client(1) as client:
        for work, job in ((made.run, [[EVENT]]), (made.batch, [[EVENT]])):
            try:
                (outcome,) = work(client, job)
            except Exception as error:  # the sender's thread asks the same function
                outcome = RunOutcome([EVENT], 0, poster.failure_of(error))
            assert outcome.failure is not None
            assert "s3cret" not in outcome.failure.error
            assert not outcome.failure.final


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("trusted", [True, False])
def test_https_is_spoken_and_a_certificate_of_nobody_is_refused(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if trusted:
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: trusting)
    with HTTPServer(host="localhost", ssl_context=context) as server:
        server.expect_request("/e").respond_with_data("")
        outcome = post(Target(server.url_for("/e"), "key"))
    assert outcome.delivered == trusted
    if not trusted:
        assert outcome.failure is not None
        assert "CERTIFICATE_VERIFY_FAILED" in outcome.failure.error
        assert not outcome.failure.final
