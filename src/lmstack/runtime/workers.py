"""The worker processes of the gateway, as `lm status` shows them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. ``memory_mb`` is None when it is not known. ``started_at`` in Unix seconds."""

    number: int
    pid: int
    memory_mb: int | None
    started_at: float


@dataclass(frozen=True, slots=True)
class Workers:
    """The worker processes of the server, and how many died and were replaced since the server started."""

    workers: tuple[Worker, ...] = ()
    replaced: int = 0


def reported(found: dict[str, Any]) -> Workers:
    """Return the workers of a server's report, each with the memory that it uses now."""
    rows = [
        Worker(one["number"], one["pid"], memory_mb(one["pid"]), one["started_at"]) for one in found.get("workers", ())
    ]
    return Workers(tuple(rows), found.get("replaced", 0))


def memory_mb(pid: int) -> int | None:
    """Return the memory of a process in MB: its own, and its share of what it has in common with others.

    Systems other than Linux do not tell shares. There all its memory counts. None when the process is gone.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        found = process.memory_full_info() if psutil.LINUX else process.memory_info()
    except psutil.Error:
        return None
    return round(getattr(found, "pss", found.rss) / 1024 / 1024)
