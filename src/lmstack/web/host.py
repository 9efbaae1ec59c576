"""What the page knows of the program that serves it. The gateway fills this in; tests and `make screenshots` fake it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmstack.keys.key import Key
from lmstack.routing.candidates import Candidate

# Called for each refused request with the reason, the client's address and the path.
Note = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the gateway serves. ``rates``: USD per million tokens in and out; ``cooldown_seconds``: that are left."""

    name: str
    provider: str | None
    litellm_model: str
    tier: int | None = None
    rates: tuple[float, float] | None = None
    flat_price: tuple[str, float] | None = None
    context: int | None = None
    state: str = "unchecked"  # healthy, unhealthy or unchecked
    error: str | None = None
    checked_at: str | None = None  # ISO 8601
    cooldown_seconds: float | None = None
    retires_on: str | None = None  # ISO date
    retired: bool = False  # its provider ended it, and a successor answers


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gateway knows beside the ledger. ``premium``: the model that it tries first for `premium`.

    ``declared_keys``: names of keys in models.yaml. ``rates``: the present use of a key's limits per minute, None where that is
    unknown; it blocks for microseconds.
    """

    models: Sequence[ServedModel] = ()
    budgets: Sequence[dict[str, Any]] = ()
    premium: Candidate | None = None
    declared_keys: Collection[str] = ()
    rates: Callable[[Key], dict[str, int] | None] = lambda key: None


async def _no_facts() -> Facts:
    return Facts()


def _no_note(reason: str, address: str, path: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Host:
    """Where the ledger is, the operator's key, and how to ask the gateway. ``metrics_token``: LITELLM_METRICS_TOKEN."""

    ledger: Path
    master_key: Callable[[], str | None]
    facts: Callable[[], Any] = field(default=_no_facts)  # async
    note: Note = _no_note
    is_leaving: Callable[[], bool] = lambda: False  # the worker stops: its streams must end
    metrics_token: str = ""
