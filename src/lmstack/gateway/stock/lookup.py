"""Looks up the private names of uses.py, remembers those that are missing, and logs them once."""

import asyncio
import functools
import importlib
import importlib.metadata
import inspect
import logging
from types import ModuleType
from typing import Any

import litellm

from lmstack.gateway.stock import uses
from lmstack.gateway.stock.uses import USES, Use

log = logging.getLogger(__name__)

LOAD_SECONDS = 60.0
_POLL_SECONDS = 0.2
_ABSENT, _NOT_YET = object(), object()
_missing: set[Use] = set()
_made: list[Any] = []  # the router that LiteLLM has made last, where proxy_server does not name it


def find(use: Use, default: Any = None) -> Any:
    """Return the object that has a private name now, or ``default`` where this release lacks it. Never raises."""
    found = _look(use)
    if found is _ABSENT:
        _missing.add(use)
    return default if found is _ABSENT or found is _NOT_YET else found


def has(use: Use) -> bool:
    """Return whether this release has a private name. False for a name of the router while there is no router."""
    return find(use, _ABSENT) is not _ABSENT


def router() -> Any:
    """Return LiteLLM's router; None before its configuration is loaded."""
    found = find(uses.ROUTER, _ABSENT)
    if found is _ABSENT:
        return _made[-1] if _made else None
    return found


def remember_router() -> None:
    """Keep each router that LiteLLM makes, where its own variable for it is missing."""
    if has(uses.ROUTER):
        return
    plain = litellm.Router.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        _made[:] = [self]

    # LiteLLM passes on only the settings that it finds in the signature.
    init.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    litellm.Router.__init__ = init


def missing() -> list[Use]:
    """Return the names that this release lacks, in the order of the table. Those of the router once it is there."""
    for use in USES:
        find(use)
    return [use for use in USES if use in _missing]


def report() -> None:
    """Write one line to the log: which private names this release lacks, and what lmstack does without them."""
    release, lacking = importlib.metadata.version("litellm"), missing()
    if not lacking:
        log.info("lmstack: LiteLLM %s has all %d private names that lmstack uses", release, len(USES))
        return
    told = "; ".join(f"{use.place} ({use.without})" for use in lacking)
    log.warning("lmstack: LiteLLM %s lacks names that lmstack uses, and the gateway serves without: %s", release, told)


def report_when_loaded() -> None:
    """Report once LiteLLM has loaded its configuration and has a router; immediately where no event loop runs."""
    try:
        task = asyncio.get_running_loop().create_task(_report_when_loaded())
    except RuntimeError:
        report()
        return
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


_tasks: set["asyncio.Task[None]"] = set()  # the event loop itself keeps no task


async def _report_when_loaded() -> None:
    waited = 0.0
    while router() is None and waited < LOAD_SECONDS:
        await asyncio.sleep(_POLL_SECONDS)
        waited += _POLL_SECONDS
    report()


def _look(use: Use) -> Any:
    if _is_routers(use):
        start, names = router(), use.place.split(".")[1:]
        if start is None:
            return _NOT_YET
    else:
        module, _, path = use.place.partition(":")
        start, names = _module(module), path.split(".") if path else []
    if start is None:
        return _ABSENT
    for name in names:
        start = getattr(start, name, _ABSENT)
        if start is _ABSENT:
            return _ABSENT
    return start


def _is_routers(use: Use) -> bool:
    return use.place.startswith("router.")


@functools.cache
def _module(name: str) -> ModuleType | None:
    """Return a module; None where this release has none of that name, or where its import fails."""
    try:
        return importlib.import_module(name)
    except Exception:  # what a module does at its import is not ours
        return None
