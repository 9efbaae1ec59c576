"""Wait until a started gateway serves every model, or fail as soon as one of its programs ends."""

import time
from dataclasses import dataclass, field

from lmstack.errors import UnhealthyError
from lmstack.runtime.base import Progress, Runtime, Service
from lmstack.runtime.logs import last_error
from lmstack.stack.health import missing_names
from lmstack.stack.plan import Plan

POLL_SECONDS = 0.25
TAIL_LINES = 1000  # the traceback of a failed start has some 400 lines, and LiteLLM prints it twice


class ProgramEndedError(UnhealthyError):
    """A program of the stack ended while `lm up` waited for it."""


@dataclass
class Watch:
    """Compares the services of each poll with the poll before, to see that a program ended.

    A supervisor restarts it immediately. Without this comparison, a program that always ends looks as if it ran.
    """

    _seen: dict[str, Service] = field(default_factory=dict)

    def ended(self, services: list[Service]) -> str | None:
        """Return the name of a service that has ended since the last poll, None when all go on or none is known."""
        if not all(service.is_known for service in services):
            return None  # an engine may be slow to answer for a moment
        for service in services:
            before = self._seen.get(service.name)
            self._seen[service.name] = service
            if _has_ended(before, service):
                return service.name
        gone = [name for name in self._seen if name not in {s.name for s in services}]
        return gone[0] if gone else None


def wait_ready(plan: Plan, runtime: Runtime, timeout: float, progress: Progress) -> float:
    """Poll until the proxy serves every planned name; return the seconds that it took.

    Raises ProgramEndedError as soon as a program ends, and UnhealthyError after ``timeout`` seconds. Both quote the last
    error in the log.
    """
    began, watch = time.monotonic(), Watch()
    while True:
        waited = time.monotonic() - began
        missing = missing_names(plan)
        if not missing:
            progress.clear()
            return waited
        ended = watch.ended(runtime.services())
        if ended is not None or waited > timeout:
            progress.clear()
            why = f"{ended} does not start" if ended else _lateness(plan, missing, timeout)
            kind = ProgramEndedError if ended else UnhealthyError
            raise kind(f"{why}{_quote(runtime.log_tail(TAIL_LINES))}", "read the whole log with: lm logs")
        if progress.on_terminal:
            newest = runtime.log_tail(1)[:60]
            progress.tick(f"waiting for the proxy … {waited:.0f} s  {newest}")
        time.sleep(POLL_SECONDS)


def _has_ended(before: Service | None, now: Service) -> bool:
    if now.state in ("failed", "restarting"):
        return True
    if before is None:
        return False  # supervisord calls a program stopped until it has started it
    replaced = before.pid is not None and now.pid is not None and now.pid != before.pid
    stopped = now.state == "stopped" and before.state != "stopped"
    return replaced or stopped or now.restarts > before.restarts


def _lateness(plan: Plan, missing: tuple[str, ...], timeout: float) -> str:
    if missing != plan.names:
        return f"the proxy runs but does not serve: {', '.join(missing)}"
    return f"the proxy was not ready within {timeout:g} s"


def _quote(log: str) -> str:
    found = last_error(log.splitlines())
    return f". Its last error: {found}" if found else ". It wrote no log"
