"""`lm up --foreground`: SIGTERM and Ctrl-C stop the stack, and a second signal does not leave half of it running."""

import contextlib
import signal
from collections.abc import Callable, Iterator

from lmstack.runtime import base


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


def follow_until_stopped(runtime: base.Runtime, show: Callable[[str], None], say: base.Say) -> None:
    """Pass each new log line to ``show`` until Ctrl-C or SIGTERM; then stop the stack."""
    with contextlib.suppress(KeyboardInterrupt), sigterm_as_ctrl_c():
        try:
            for line in runtime.logs(base.LogQuery(follow=True, tail=5)):
                show(line)
        finally:
            stop_ignoring_signals(runtime, say)


def stop_ignoring_signals(runtime: base.Runtime, say: base.Say) -> None:
    """Stop the stack. Signals are ignored meanwhile, so that nothing is left half stopped."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        runtime.down(False, say)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
