"""Which workers are too old or too large, and when the server looks again."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from lmstack.gateway.app import worker_age, worker_memory


def a_worker(hours: float) -> Any:
    return SimpleNamespace(
        idx=0, born_at=time.time() - hours * 3600, is_alive=lambda: True,
        begun=SimpleNamespace(flags=[1, 0]), inner=SimpleNamespace(pid=7),
    )  # fmt: skip


def test_a_worker_that_is_too_old_is_reported_until_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_WORKER_MAX_HOURS", "2")
    ages = worker_age.Ages()
    old, young = a_worker(3), a_worker(1)
    assert ages.too_old([old, young]) == ages.too_old([old]) == [(0, "worker-1 (PID 7) is 2 hours old")]
    assert ages.too_old([young]) == []
    pauses = ages.pause([old]), ages.pause([young])
    assert pauses == (worker_age.AGAIN_SECONDS, pytest.approx(3600, abs=5))


def test_a_worker_that_is_too_large_is_reported_until_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_WORKER_MAX_MB", "100")
    monkeypatch.setattr(worker_memory, "INTERVAL", 0.0)
    monkeypatch.setattr(worker_memory, "memory_mb", lambda pid: 200.0)
    watch, worker = worker_memory.Watch(), a_worker(1)

    class Hashable(SimpleNamespace):
        __hash__ = object.__hash__  # type: ignore[assignment]

    found = [watch.too_large([Hashable(**vars(worker))]) for _ in range(4)]
    assert [len(one) for one in found] == [0, 1, 1, 1]
    assert "uses 200 MB, above the limit of 100 MB" in found[1][0][1]
