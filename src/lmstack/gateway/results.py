"""The last results of models and providers: what one worker saw, and what all workers wrote to the ledger."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmstack.ledger import queries
from lmstack.ledger.faults import CLIENT_KEY, NOT_THE_PROVIDER
from lmstack.ledger.records import Fault

log = logging.getLogger(__name__)

KEEP_SECONDS, READ_SECONDS = 2.0, 1.0
_KEY_OR_ACCOUNT = ("401", "402")  # the provider refuses the key or the account, so all its models fail


@dataclass(frozen=True, slots=True)
class LastResult:
    """The last attempt of a model or provider. ``at`` is Unix seconds. Without a ``fault`` it answered."""

    at: float
    fault: Fault | None
    whole_provider: bool = False  # the failure concerns all models of the provider


# Returns the last result of a deployment with that name and provider.
LastResultOf = Callable[[str, str | None], LastResult | None]


class Results:
    """The last result of each model, and the failures that concern all models of a provider."""

    def __init__(self) -> None:
        self._models: dict[str, LastResult] = {}
        self._providers: dict[str, LastResult] = {}

    def note(self, deployment: str | None, provider: str | None, fault: Fault | None, at: float | None = None) -> None:
        """Note the outcome of a deployment's last attempt. An answer also shows that its provider works again."""
        if deployment:
            self._models[deployment] = LastResult(time.time() if at is None else at, fault)
        if fault is None and provider:
            self._providers.pop(provider, None)

    def note_provider(self, provider: str | None, fault: Fault | None, at: float | None = None) -> None:
        """Note a failure that concerns all models of a provider: it cannot be reached, or it refuses the key."""
        if provider and fault is not None:
            self._providers[provider] = LastResult(time.time() if at is None else at, fault, whole_provider=True)

    def last(self, deployment: str, provider: str | None) -> LastResult | None:
        """Return the last result of a deployment, or the failure of its whole provider where that came later."""
        return _newest(self._models.get(deployment), self._providers.get(provider or ""))


class LedgerResults:
    """The results that all workers have written to the ledger since ``since`` (Unix seconds)."""

    def __init__(self, path: Path, since: float) -> None:
        self._path, self._since = path, since
        self._results, self._read_at = Results(), 0.0

    async def read(self) -> Results:
        """Return the results, at most KEEP_SECONDS old. Without a readable ledger they may be older."""
        if time.monotonic() - self._read_at > KEEP_SECONDS:
            self._read_at = time.monotonic()
            try:
                arguments = {"since": self._since}
                reading = asyncio.to_thread(queries.ask, self._path, "last_attempts", arguments)
                self._results = results_from(await asyncio.wait_for(reading, READ_SECONDS))
            except Exception as error:
                log.debug("lmstack: /health shows this worker's results only: %s", type(error).__name__)
        return self._results


def results_from(rows: Iterable[Mapping[str, Any]]) -> Results:
    """Return the results that the ledger's attempts show. ``rows`` begin with the newest."""
    found = Results()
    for row in reversed(list(rows)):
        code, message = row["error_code"], row["error_message"] or ""
        if row["outcome"] == "succeeded":
            found.note(row["deployment"], row["provider"], None, row["ended_at"])
        elif code is not None and code not in NOT_THE_PROVIDER and not message.startswith(CLIENT_KEY):
            fault = Fault(row["error_type"] or "", code, message)
            found.note(row["deployment"], row["provider"], fault, row["ended_at"])
            if code in _KEY_OR_ACCOUNT:
                found.note_provider(row["provider"], fault, row["ended_at"])
    return found


def newest_of(*sources: Results) -> LastResultOf:
    """Return a function that gives the newest result of a deployment in all sources."""
    return lambda deployment, provider: _newest(*(source.last(deployment, provider) for source in sources))


def _newest(*results: LastResult | None) -> LastResult | None:
    return max((r for r in results if r is not None), key=lambda result: result.at, default=None)
