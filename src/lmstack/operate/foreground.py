"""`lm up --foreground`: SIGTERM and Ctrl-C stop the stack, and a second signal does not leave half of it running."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

from lmstack import files
from lmstack.errors import UnhealthyError
from lmstack.runtime import base
from lmstack.runtime.logs import LOOK_SECONDS
from lmstack.stack.project import PROXY_SERVICE, Project


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, which service managers send."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def follow_until_stopped(project: Project, runtime: base.Runtime, show: Callable[[str], None], say: base.Say) -> None:
    """Pass each new log line to ``show`` until Ctrl-C or SIGTERM; then stop the stack.

    Raises UnhealthyError when the gateway ends before that: a service manager can start it again.
    """
    with contextlib.suppress(KeyboardInterrupt), sigterm_as_ctrl_c():
        try:
            _follow_until(lambda: _is_gone(project, runtime), runtime, show)
        finally:
            stop_ignoring_signals(runtime, say)
        raise UnhealthyError("the gateway does not run any more", "see why: lm logs --since 5m")


def _follow_until(gone: Callable[[], bool], runtime: base.Runtime, show: Callable[[str], None]) -> None:
    """Pass log lines on until the gateway is gone. The log alone may end earlier, as when another lm restarts it."""
    tail = 5
    while True:
        for line in runtime.logs(base.LogQuery(follow=True, tail=tail, until=gone)):
            show(line)
        if gone():
            return
        tail = 0
        time.sleep(LOOK_SECONDS)


def _is_gone(project: Project, runtime: base.Runtime) -> bool:
    """Return whether the proxy has ended for good. While another lm command changes the stack, it has not."""
    lock = project.state / "lock"
    if files.is_locked(lock):
        return False
    proxy = [service for service in runtime.services() if service.name == PROXY_SERVICE]
    ended = not proxy or (proxy[0].is_known and proxy[0].state in ("failed", "stopped"))
    return ended and not files.is_locked(lock)


def stop_ignoring_signals(runtime: base.Runtime, say: base.Say) -> None:
    """Stop the stack. Signals are ignored meanwhile, so that nothing is left half stopped."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        runtime.down(False, say)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
