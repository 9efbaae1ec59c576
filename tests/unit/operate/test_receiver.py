"""The example receiver: it checks signatures, takes batches, and answers any request."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from lmstack.delivery.contract import Target
from lmstack.ledger import events
from lmstack.operate import receiver
from posts import event, post, post_batch


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
    lines = {"host": "x", "content-length": "2", "connection": "close"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"POST /e HTTP/1.1\r\n{head}\r\n{{}}".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.split()[1] == str(status).encode()


def test_the_example_receiver_refuses_what_is_no_event_and_takes_it_when_it_is_mended(example: str) -> None:
    target = Target(example, secret="whsec_c2VjcmV0")
    broken = post(target, event(7, payload="{broken")).failure
    assert broken is not None
    assert broken.status == 400
    assert post(target, event(7)).delivered == 1
    assert "evt_7" in receiver.SEEN
