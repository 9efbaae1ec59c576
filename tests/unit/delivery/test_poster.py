"""What the poster makes of the receiver's answers."""

import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import httpx
import pytest
from pytest_httpserver import HTTPServer

from lmstack.delivery import poster
from lmstack.delivery.contract import Target
from lmstack.delivery.poster import Poster
from lmstack.ledger.outbox import RunOutcome
from posts import EVENT, post


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
    found = poster.seconds_to_wait(answer.headers.get("retry-after"), time.time())
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


def test_an_answer_is_read_up_to_its_bound_and_never_unpacked(raw: Callable[[Iterator[bytes]], str]) -> None:
    """The post ends long before its deadline, and 50 MB in 50 kB stay 50 kB."""
    packed = gzip.compress(bytes(50_000_000))
    bomb = OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed
    tracemalloc.start()
    try:
        began = time.monotonic()
        assert post(Target(raw(iter([bomb])))).delivered == 1
        assert post(Target(raw(flooding(OK + b"\r\n", b"x" * 65536)))).delivered == 1
        assert time.monotonic() - began < poster.POST_SECONDS / 2
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


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
