"""Make one call to the operating system fail: for tests of threads that must survive any failure.

The calls are not listed by hand. A first run notes each place where a thread calls a C function of the modules below.
Each further run makes the call at one of these places raise, once.
"""

import io
import sqlite3
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULES = {"posix", "time", "_socket", "socket", "select", "_thread", "_sqlite3", "io", "_io", "fcntl"}
# These functions only count and wait inside the interpreter. No system makes them fail.
INTERNAL = {"allocate_lock", "get_ident", "get_native_id", "_set_sentinel", "acquire", "release", "locked", "__enter__",
            "__exit__", "daemon_threads_allowed", "RLock", "_is_owned", "_release_save", "_acquire_restore", "_count",
            "fspath", "getpid", "_make_thread_handle", "_get_main_thread_ident", "text_encoding"}  # fmt: skip
Place = tuple[str, str, int, int]  # the function, the file and the line that call it, and which call of that line


def _error(module: str, name: str) -> Exception:
    if module == "_sqlite3":
        return sqlite3.OperationalError("disk I/O error")
    if name.startswith("start_"):
        return RuntimeError("can't start new thread")
    return OSError(5, "Input/output error")


@dataclass
class SystemCalls:
    """A profile function: note the calls of the threads with these names, and make the call at ``fail`` raise once.

    With ``after``, the call has its effect and raises afterwards, as a COMMIT whose answer is lost.
    """

    threads: tuple[str, ...]
    fail: Place | None = None
    after: bool = False
    error: Exception | None = None
    seen: list[Place] = field(default_factory=list)
    failed: bool = False
    _counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if event not in ("c_call", "c_return") or self.failed:
            return
        module, name = _named(arg)
        # A close that fails has closed the file all the same.
        if event != ("c_return" if self.after or (module, name) == ("posix", "close") else "c_call"):
            return
        if module not in MODULES or name in INTERNAL or not threading.current_thread().name.startswith(self.threads):
            return
        site = (f"{module}.{name}", Path(frame.f_code.co_filename).name, frame.f_lineno)
        with self._lock:
            self._counts[site] += 1
            place = (*site, self._counts[site])
            self.seen.append(place)
            if place != self.fail:
                return
            self.failed = True
        raise self.error or _error(module, name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch each thread that is started in this block."""
        threading.setprofile(self)
        try:
            yield
        finally:
            threading.setprofile(None)

    def places(self, turns: int) -> list[Place]:
        """Return the places that were seen. Of a place inside a loop, return its first ``turns`` calls."""
        return sorted({place for place in self.seen if place[3] <= turns})


def _named(function: Any) -> tuple[str, str]:
    """Return the module and the name of a C function or method, whatever it is bound to."""
    name = getattr(function, "__name__", "")
    bound = getattr(function, "__self__", None)
    if isinstance(bound, types.ModuleType):
        return bound.__name__, name
    if isinstance(bound, io.StringIO | io.BytesIO):  # memory, no file
        return "memory", name
    module = type(bound).__module__
    for base in type(bound).__mro__:
        if base.__module__ in ("sqlite3", "_sqlite3"):
            return "_sqlite3", name
        if base.__module__ == "_socket":
            return "_socket", name
    return (getattr(function, "__module__", None) or module), name


def soon(check: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until ``check`` is true, looking often. The bound is long: it only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.002)
