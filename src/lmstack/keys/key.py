"""One key and its limits: what it may call, with which models, how often, and for how many US dollars."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from lmstack.keys.routes import SHARED
from lmstack.routing.budgets import SOFT, Limit

# As the agent of a key: the client says itself which agent it is.
ANY_AGENT = "*"
# The roles of keys. A viewer reads the page at /dashboard, and calls nothing. A key without a role is an agent's.
AGENT, VIEWER = "agent", "viewer"
ROLES = (AGENT, VIEWER)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do. An empty tuple and None mean: no limit of this kind.

    ``models``: names, or patterns such as ``gpt-*``. ``tiers``: of chat models, 1 to 3. ``tasks``: a pattern for
    x-task-id. ``budgets``: US dollars for each period. ``rpm`` and ``tpm``: requests and tokens in a minute. ``parallel``:
    open requests. ``raise_usd``: added to each budget until ``raise_until`` (Unix seconds). ``role``: one of ROLES.
    """

    agent: str | None = None
    team: str | None = None
    models: tuple[str, ...] = ()
    tiers: tuple[int, ...] = ()
    routes: tuple[str, ...] = ()
    tasks: str | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    soft: float = SOFT
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    raise_usd: float = 0.0
    raise_until: float | None = None
    role: str = AGENT

    @property
    def is_viewer(self) -> bool:
        """Return whether the key opens the page, and calls nothing."""
        return self.role == VIEWER

    @property
    def restricts_models(self) -> bool:
        """Return whether some models may not serve this key."""
        return bool(self.models or self.tiers)

    @property
    def has_rates(self) -> bool:
        """Return whether requests, tokens or open requests are limited."""
        return self.rpm is not None or self.tpm is not None or self.parallel is not None

    def allows_model(self, name: str, tier: int | None) -> bool:
        """Return whether a served model may answer this key. ``tier`` is None for a model that does not chat."""
        if (
            self.models
            and name not in self.models
            and not any(fnmatchcase(name, one) for one in self.models if "*" in one)
        ):
            return False
        return not self.tiers or tier is None or tier in self.tiers

    def allows_route(self, kind: str) -> bool:
        """Return whether the key may call routes of a kind. What a provider keeps for all must be named."""
        if self.is_viewer:
            return False
        return kind in self.routes if self.routes else kind not in SHARED

    def allows_task(self, task: str | None) -> bool:
        """Return whether the key may work for a task; None: the request names none."""
        return self.tasks is None or (task is not None and fnmatchcase(task, self.tasks))

    def as_json(self) -> dict[str, Any]:
        """Return what is limited, as plain values."""
        default = asdict(KeyLimits())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


_TUPLES = ("models", "tiers", "routes")
_KNOWN = frozenset(f.name for f in fields(KeyLimits))


def limits_from(found: Mapping[str, Any]) -> KeyLimits:
    """Return the limits in plain values. Unknown names are ignored: a newer lmstack may have written them."""
    known: dict[str, Any] = {
        name: tuple(value) if name in _TUPLES else value for name, value in found.items() if name in _KNOWN
    }
    return KeyLimits(**known)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the gateway knows it. Times are Unix seconds. ``id`` is the number of its row in the ledger.

    ``shared_name``: the same in every ledger that has this key, and it reveals nothing of the key.
    """

    id: int
    name: str
    limits: KeyLimits = KeyLimits()
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    shared_name: str = ""

    def objection(self, now: float) -> str | None:
        """Return the kind of error for a key that is not valid any more; None for a valid one."""
        if self.revoked_at is not None:
            return "key_revoked"
        return "key_expired" if self.expires_at is not None and now >= self.expires_at else None

    def agent_of(self, claimed: str | None) -> str | None:
        """Return the agent that a request counts for. ``claimed``: what the client says."""
        return claimed if self.limits.agent == ANY_AGENT else self.limits.agent or self.name

    def budgets(self, now: float) -> tuple[Limit, ...]:
        """Return the key's own budgets, with a raise that has not ended."""
        limits = self.limits
        more = limits.raise_usd if limits.raise_until is not None and now < limits.raise_until else 0.0
        return tuple(Limit("key", self.name, period, usd + more, limits.soft) for period, usd in limits.budgets.items())


def state_of(key: Key, now: float) -> str:
    """Return active, revoked or expired."""
    return (key.objection(now) or "key_active").removeprefix("key_")


def use_of_rates(limits: KeyLimits, used: Mapping[str, int] | None) -> dict[str, dict[str, int | None]]:
    """Return the limits per minute, and of open requests, each with its present use; None where that is not known."""
    counts = used or {}
    return {name: {"limit": getattr(limits, name), "used": counts.get(name)} for name in ("rpm", "tpm", "parallel")}


def allowed(key: Key | None, models: Iterable[tuple[str, int | None]]) -> list[str]:
    """Return the names of ``models`` (name and tier) that may serve a key; all of them without a key."""
    return [name for name, tier in models if key is None or key.limits.allows_model(name, tier)]
