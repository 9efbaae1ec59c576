"""What the sender makes of TaskMaster's answers, of the settings, and of what comes back from its threads."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from lmstack.delivery import poster, sender
from lmstack.delivery.availability import Availability
from lmstack.delivery.contract import Target, target_from
from lmstack.delivery.inbox import Inbox
from lmstack.delivery.poster import Poster
from lmstack.delivery.sender import Sender
from lmstack.ledger import events, outbox
from lmstack.ledger.outbox import LeasedEvent, RunOutcome
from lmstack.ledger.retries import Failure
from lmstack.operate import receiver

EVENT = LeasedEvent(1, "evt_1", events.COST, "task:t", 1_700_000_000.0, '{"n":1}', 0)
DOWN, REFUSED, GONE = Failure(503, "HTTP 503"), Failure(400, "HTTP 400", None, True), Failure(410, "HTTP 410", 600.0)


def event(seq: int, task: str = "t", payload: str = "{}") -> LeasedEvent:
    return LeasedEvent(seq, f"evt_{seq}", events.COST, f"task:{task}", 1_700_000_000.0, payload, 0)


def post(target: Target, sent: LeasedEvent = EVENT) -> RunOutcome:
    made = Poster(target, lambda: False)
    with made.client(1) as client:
        return made.run(client, [[sent]])[0]


def post_batch(target: Target, job: list[list[LeasedEvent]]) -> list[RunOutcome]:
    made = Poster(target, lambda: False)
    with made.client(1) as client:
        return made.batch(client, job)


# -- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "taken", "final"),
    [
        (200, True, False), (201, True, False), (204, True, False), (299, True, False),
        (301, False, False), (304, False, False), (307, False, False),
        (400, False, True), (401, False, True), (404, False, True), (413, False, True), (422, False, True),
        (408, False, False), (410, False, False), (425, False, False), (429, False, False),
        (500, False, False), (501, False, False), (503, False, False), (599, False, False), (999, False, False),
    ],
)  # fmt: skip
def test_what_a_status_means(httpserver: HTTPServer, status: int, taken: bool, final: bool) -> None:
    httpserver.expect_request("/e").respond_with_data("", status=status)
    outcome = post(Target(httpserver.url_for("/e")))
    assert (outcome.delivered == 1) is taken
    assert taken or (outcome.failure is not None and outcome.failure.final is final)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_the_key_nowhere(httpserver: HTTPServer, status: int) -> None:
    with HTTPServer(host="127.0.0.1") as elsewhere:
        away = {"Location": elsewhere.url_for("/e")}
        httpserver.expect_request("/e").respond_with_data("", status=status, headers=away)
        outcome = post(Target(httpserver.url_for("/e"), "key", "secret"))
        assert elsewhere.log == []
    assert outcome.failure is not None
    assert "TASKMASTER_API_URL" in outcome.failure.error


def test_no_cookie_of_the_receiver_is_kept(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/e").respond_with_data("", headers={"Set-Cookie": "a=b; Path=/"})
    made = Poster(Target(httpserver.url_for("/e")), lambda: False)
    with made.client(1) as client:
        assert made.run(client, [[EVENT, EVENT]])[0].delivered == 2
        assert len(client.cookies.jar) == 0
    assert all("cookie" not in request.headers for request, _ in httpserver.log)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0, 0), ("60", 60, 60), (" 60 ", 60, 60), ("99999999999999", 3600, 1e12), ("9" * 5000, 3600, 1e12),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600, 1e12),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None, 1e12),
        ("", None, None), ("-5", None, None), ("1.5", None, None), ("nan", None, None), ("inf", None, None),
        ("1e9", None, None), ("soon", None, None), ("٣", None, None), ("Wed, 99 Foo 2015", None, None), (",", None, None),
        ("60, 120", None, None), ("Mon, 01 Jan 0000 00:00:00 GMT", None, 0),
    ],
)  # fmt: skip
def test_a_retry_after_of_any_form(value: str, least: float | None, most: float | None) -> None:
    answer = httpx.Response(503, headers=[(b"retry-after", value.encode())])
    found = poster._retry_after(answer, time.time())
    assert found is None or (most is not None and (least or 0) <= found <= most)
    assert found is not None or least is None


@pytest.fixture
def raw() -> Iterator[Callable[[Iterator[bytes]], str]]:
    """Serve one connection with the bytes given, however slowly they come."""
    made: list[socket.socket] = []

    def serve(chunks: Iterator[bytes]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        made.append(listener)

        def answer() -> None:
            connection, _ = listener.accept()
            made.append(connection)
            try:
                connection.recv(65536)
                for chunk in chunks:
                    connection.sendall(chunk)
            except OSError:
                return

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/e"

    yield serve
    for one in made:
        one.close()


def dripping(head: bytes, chunk: bytes) -> Iterator[bytes]:
    yield head
    for _ in range(600):
        time.sleep(0.05)
        yield chunk


def flooding(head: bytes, chunk: bytes) -> Iterator[bytes]:
    yield head
    while True:
        yield chunk


OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "a header in drips": lambda: dripping(OK + b"x-slow: ", b"x"),
    "a status line in drips": lambda: dripping(b"HTTP/1.1 200 ", b"x"),
    "interim answers in drips": lambda: dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "interim answers without end": lambda: flooding(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "a header without end": lambda: flooding(OK + b"x-long: ", b"x" * 65536),
    "headers without end": lambda: flooding(OK, b"x-one-more: 1\r\n" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_without_end_holds_no_thread(
    raw: Callable[[Iterator[bytes]], str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(poster, "POST_SECONDS", 0.5)
    done: list[RunOutcome] = []
    url = raw(ENDLESS[name]())
    thread = threading.Thread(target=lambda: done.append(post(Target(url))), daemon=True)
    thread.start()
    thread.join(10)
    assert done, "the thread is held"
    assert done[0].failure is not None
    assert not done[0].failure.final


@pytest.mark.parametrize("how", ["in drips", "without end", "broken off", "wrongly chunked"])
def test_a_200_counts_whatever_its_body_is(
    raw: Callable[[Iterator[bytes]], str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The receiver has taken the event. To send it again, every time, would help nobody."""
    monkeypatch.setattr(poster, "POST_SECONDS", 0.5)
    long = OK + b"content-length: 60000\r\n\r\n"
    bodies = {
        "in drips": dripping(long, b"x"),
        "without end": flooding(OK + b"\r\n", b"x" * 65536),
        "broken off": iter([long + b"x"]),
        "wrongly chunked": iter([OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n"]),
    }
    assert post(Target(raw(bodies[how]))).delivered == 1


# -- settings and secrets -------------------------------------------------------------------------------------------


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


# -- batches --------------------------------------------------------------------------------------------------------


def _taker(bad: set[int], most: int, got: list[str]) -> Callable[[Request], Response]:
    def take(request: Request) -> Response:
        ids = [entry["id"] for entry in json.loads(request.data)]
        if len(ids) > most:
            return Response(status=413)
        if any(f"evt_{seq}" in ids for seq in bad):
            return Response(status=400)
        got.extend(ids)
        return Response(status=204)

    return take


@pytest.mark.parametrize("most", [1, 2, 7, 100])
@pytest.mark.parametrize("bad", [set(), {0}, {5}, {23}, {0, 1, 2}, {3, 9, 14}])
def test_of_a_refused_batch_only_the_events_to_blame_are_refused(
    httpserver: HTTPServer, bad: set[int], most: int
) -> None:
    job = [[event(lane * 4 + place, f"t{lane}") for place in range(4)] for lane in range(6)]
    got: list[str] = []
    httpserver.expect_request("/e").respond_with_handler(_taker(bad, most, got))
    outcomes = post_batch(Target(httpserver.url_for("/e"), batch=True), job)
    assert [outcome.run for outcome in outcomes] == job
    for outcome in outcomes:
        first_bad = next((n for n, one in enumerate(outcome.run) if one.seq in bad), len(outcome.run))
        assert outcome.delivered == first_bad
        assert (outcome.failure is not None and outcome.failure.final) is (first_bad < 4)
        assert [one.event_id for one in outcome.run[:first_bad]] == [
            i for i in got if i in {e.event_id for e in outcome.run}
        ]


def test_a_payload_that_is_not_json_holds_up_no_other_event_of_a_batch(httpserver: HTTPServer) -> None:
    got: list[str] = []
    httpserver.expect_request("/e").respond_with_handler(_taker(set(), 100, got))
    job = [[event(1, "a")], [event(2, "b", "{broken")], [event(3, "c"), event(4, "c")]]
    outcomes = post_batch(Target(httpserver.url_for("/e"), batch=True), job)
    assert [outcome.delivered for outcome in outcomes] == [1, 0, 2]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.final
    assert got == ["evt_1", "evt_3", "evt_4"]


# -- what comes back ------------------------------------------------------------------------------------------------


def test_the_inbox_owns_what_is_under_way_and_what_is_not_settled_yet() -> None:
    inbox, one, two = Inbox(), [RunOutcome([EVENT], 1)], [RunOutcome([EVENT], 0, DOWN), RunOutcome([EVENT], 1)]
    inbox.under_way = 3
    inbox.results.put(one)
    inbox.results.put(two)
    assert inbox.take(5) == [one, two]
    assert (inbox.under_way, inbox.unsettled) == (1, one + two)
    assert inbox.take() == []
    inbox.results.put(one)
    inbox.begin(same_file=True)
    assert (inbox.under_way, inbox.unsettled) == (0, one + two + one)
    inbox.results.put(two)
    inbox.begin(same_file=False)
    assert (inbox.under_way, inbox.unsettled, inbox.take()) == (0, [], [])


@pytest.fixture
def stopped(tmp_path: Path) -> Sender:
    made = Sender(tmp_path / "none.db", Target("http://127.0.0.1:1/e"), clock=lambda: 1000.0)
    made.close()
    return made


TAKEN, UNSENT = RunOutcome([EVENT], 1), RunOutcome([EVENT], 0)
MANY = [RunOutcome([EVENT], 0, DOWN)] * 50


@pytest.mark.parametrize(
    ("before", "outcomes", "failures", "pause", "back"),
    [
        (0, [TAKEN], 0, 0, False),
        (0, [RunOutcome([EVENT], 0, DOWN)], 1, 0, False),
        (0, MANY, 1, 0, False),  # one post, so one failure
        (5, [UNSENT], 5, 0, False),  # says nothing about the receiver
        (5, [RunOutcome([EVENT], 0, REFUSED)], 5, 0, False),
        (5, [RunOutcome([EVENT], 0, GONE)], 5, 600, False),
        (5, [RunOutcome([EVENT, EVENT], 1, DOWN)], 1, 0, False),
        (15, [RunOutcome([EVENT], 0, DOWN)], 16, 1, False),
        (16, [UNSENT], 16, 1, False),
        (20, [RunOutcome([EVENT], 0, DOWN)], 21, 30, False),
        (99, [TAKEN], 0, 0, True),
        (99, [UNSENT, TAKEN], 0, 0, True),
        (99, [TAKEN, RunOutcome([EVENT], 0, REFUSED)], 0, 0, True),
    ],
)
def test_what_one_post_tells_about_the_receiver(
    before: int, outcomes: list[RunOutcome], failures: int, pause: float, back: bool
) -> None:
    seen = Availability()
    seen.failures = before
    assert seen.learn(outcomes, 1000.0) is back
    assert seen.failures == failures
    assert seen.not_before == (1000.0 + pause if pause else 0.0)


def test_a_job_is_reported_on_once_also_where_the_pool_runs_what_it_refused(stopped: Sender) -> None:
    kept: list[Callable[[], None]] = []

    class Refusing:
        """As ThreadPoolExecutor when no thread can be started: it keeps the work, and raises."""

        def submit(self, work: Callable[..., None], *args: object) -> None:
            kept.append(lambda: work(*args))
            raise RuntimeError("can't start new thread")

    sent: list[object] = []

    def send(client: object, job: list[list[LeasedEvent]]) -> list[RunOutcome]:
        sent.append(job)
        return [TAKEN]

    stopped._start(Refusing(), send, None, [[EVENT]])  # type: ignore[arg-type]
    for later in kept:
        later()
    ((outcome,),) = stopped._inbox.take()
    assert (stopped._inbox.under_way, sent) == (0, [])
    assert outcome.failure is not None


def test_no_post_is_begun_so_late_that_it_outlives_its_lease() -> None:
    assert poster.RUN_SECONDS + poster.POST_SECONDS < outbox.LEASE_SECONDS
    assert sender.BATCH_EVENTS >= sender.BATCH_LANES


# -- the example receiver -------------------------------------------------------------------------------------------


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(receiver, "SECRET", "whsec_c2VjcmV0")
    monkeypatch.setattr(receiver, "SEEN", set())
    server = ThreadingHTTPServer(("127.0.0.1", 0), receiver.Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/e"
    server.shutdown()
    server.server_close()


def test_the_example_receiver_drops_each_event_that_it_has_seen_also_from_batches(
    example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Target(example, secret="whsec_c2VjcmV0", batch=True)
    post_batch(target, [[event(1), event(2)]])
    post_batch(target, [[event(2), event(3)]])
    assert post(target, event(3)).delivered == 1
    assert capsys.readouterr().out.count(events.COST) == 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"webhook-timestamp": "soon", "webhook-signature": "v1,x"}, 401),
        ({"webhook-timestamp": "nan"}, 401),
        ({"webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,\u00e4"}, 401),
        ({"content-length": "x"}, 413),
        ({"content-length": "99999999999"}, 413),
    ],
)
def test_the_example_receiver_answers_anything(example: str, headers: dict[str, str], status: int) -> None:
    port = int(example.split(":")[2].split("/")[0])
    lines = {"host": "x", "content-length": "2"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"POST /e HTTP/1.1\r\n{head}\r\n{{}}".encode())
        assert connection.recv(100).split()[1] == str(status).encode()


def test_the_example_receiver_refuses_what_is_no_event_and_takes_it_when_it_is_mended(example: str) -> None:
    target = Target(example, secret="whsec_c2VjcmV0")
    broken = post(target, event(7, payload="{broken")).failure
    assert broken is not None
    assert broken.status == 400
    assert post(target, event(7)).delivered == 1
    assert "evt_7" in receiver.SEEN


# -- TLS ------------------------------------------------------------------------------------------------------------


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
