"""A supervisord that hangs, or ends in the middle of an answer, counts as one that does not answer."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmstack.runtime import supervisor
from lmstack.runtime.processes import socket_path


@pytest.fixture(
    params=[
        None,
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<method",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<no>",
        b"HTTP/1.1 500 No\r\n\r\n",
    ]
)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return a stack's folder with a socket that answers with these bytes and closes; None never answers."""
    path = socket_path(tmp_path)
    path.parent.mkdir(exist_ok=True)
    held = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if request.param is not None:
                    connection.recv(65536)
                    connection.sendall(request.param)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield tmp_path
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()
    path.unlink(missing_ok=True)


def test_no_answer_is_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ANSWER_SECONDS", 0.3, raising=False)
    began = time.monotonic()
    assert supervisor.process_infos(root) is None
    assert supervisor.pids(root) == []
    assert supervisor.shut_down(root) is False
    assert time.monotonic() - began < 30
