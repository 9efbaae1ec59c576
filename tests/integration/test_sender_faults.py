"""The sender's thread survives whatever fails under it: every event arrives, in order per task, and none is dead."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from bench.faults.post import Post

from lmstack.delivery import sender
from lmstack.ledger import outbox
from support import wait_for

SEAMS: list[tuple[Any, str]] = [
    (sender, "connect"), (sender, "_identity"), (sender, "writing"), (outbox, "lease"), (outbox, "settle"), (outbox, "hurry"),
    (ThreadPoolExecutor, "submit"), (httpx.Client, "stream"), (sender.Inbox, "take"),
]  # fmt: skip
ERRORS = [
    OSError(5, "Input/output error"),
    sqlite3.OperationalError("disk I/O error"),
    RuntimeError("can't start new thread"),
]


class FailsOnce:
    """Raises at the ``place``-th call that delivery makes of what is behind it, once."""

    def __init__(self, real: Callable[..., Any], place: int, error: Exception) -> None:
        self.real, self.place, self.error = real, place, error
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = threading.current_thread().name
        if name == "lmstack-sender" or name.startswith("ThreadPoolExecutor"):
            self.calls += 1
            if self.calls == self.place:
                raise self.error
        return self.real(*args, **kwargs)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    made = Post(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(("owner", "name"), SEAMS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_call_that_fails_once_loses_no_event(
    post: Post, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    for place in (1, 3):
        with monkeypatch.context() as patch:
            failing = FailsOnce(getattr(owner, name), place, error)
            patch.setattr(owner, name, lambda *a, f=failing, **k: f(*a, **k))
            post.add(3, "one")
            post.add(2)
            post.start()
            assert post.sender is not None
            wait_for(post.all_delivered, 20, f"delivery with {name} failing at call {place}")
            assert post.sender._thread.is_alive()
            post.sender.close(20)
    order = post.receiver.order["one"]
    assert list(dict.fromkeys(order)) == sorted(set(order), key=order.index)
    assert set(post.states()) == {"delivered"}
