"""One request's way through the models: what its headers ask for, who can serve it, and in which order."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmstack.routing.candidates import CAPABILITIES, GROUPS, Candidate, heirs, price, walk
from lmstack.routing.needs import Needs

AUTO = "auto"


class RefusalError(Exception):
    """A request that cannot be served as it asks. ``fields`` stand in the error body beside the message."""

    def __init__(self, status: int, kind: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.fields = status, kind, message, fields


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks of routing; ``max_cost`` in USD."""

    tier: str | None = None
    max_cost: float | None = None
    no_fallback: bool = False

    def __bool__(self) -> bool:
        return self.tier is not None or self.max_cost is not None or self.no_fallback

    def over(self, other: "Wishes") -> "Wishes":
        """These, and ``other``'s where nothing is said here."""
        return Wishes(
            self.tier or other.tier, other.max_cost if self.max_cost is None else self.max_cost,
            self.no_fallback or other.no_fallback,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Defaults:
    """models.yaml's ``routing``: wishes per task and agent; they count where a request says nothing."""

    tasks: Mapping[str, Wishes] = field(default_factory=dict)
    agents: Mapping[str, Wishes] = field(default_factory=dict)

    def of(self, task: str | None, agent: str | None) -> Wishes:
        """The task's before the agent's, field by field."""
        return self.tasks.get(task or "", Wishes()).over(self.agents.get(agent or "", Wishes()))


@dataclass(frozen=True, slots=True)
class Way:
    """``model`` to ask LiteLLM for; ``fallbacks``: what to try after it, None: as configured for that name;
    ``first``: who is asked first; ``estimate``: what that costs in USD, None: unknown."""

    model: str
    fallbacks: tuple[str, ...] | None
    first: Candidate
    estimate: float | None


class Models:
    """Every served chat model, and each name's stock order; made once per configuration."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self.by_name = {c.name: c for c in candidates}
        self.walks = {group: walk(self.by_name.values(), tiers) for group, tiers in GROUPS.items()}
        self.walks |= {c.name: (c, *heirs(self.by_name.values(), c)) for c in self.by_name.values()}
        # A body of no more bytes than this has room everywhere: n bytes are never more than n tokens.
        self.smallest = min((c.context for c in self.by_name.values() if c.context), default=0)
        self.capable = all(c.can is None or c.can >= set(CAPABILITIES) for c in self.by_name.values())


def said(headers: Mapping[str, str], metadata: Mapping[str, Any], name: str) -> str | None:
    """What header ``x-NAME`` says, or the body's metadata where it is missing (with underscores)."""
    value = headers.get(f"x-{name}")
    if value is None:
        value = metadata.get(name.replace("-", "_"))
    return None if value is None else str(value).strip().lower()


def parse_wishes(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> Wishes:
    """Read x-lm-tier, x-lm-max-cost, x-lm-no-fallback, or ``lm_tier`` ... in the body's metadata. Raises RefusalError."""
    tier, cost = said(headers, metadata, "lm-tier"), said(headers, metadata, "lm-max-cost")
    no_fallback = said(headers, metadata, "lm-no-fallback") in ("1", "true", "on", "yes")
    if tier is not None and tier not in GROUPS:
        raise _bad("x-lm-tier", tier, f"one of {', '.join(GROUPS)}")
    return Wishes(tier, None if cost is None else amount("x-lm-max-cost", cost), no_fallback)


def amount(name: str, text: str) -> float:
    """US dollars out of a header; RefusalError when it is no positive number."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise _bad(name, text, "US dollars such as 0.02")
    return value


def choose(
    models: Models, asked: str, wishes: Wishes, needs: Needs, complexity: Callable[[], str], only_free: bool = False
) -> Way | None:
    """The way for a request; None when ``asked`` is not ours to route. Raises RefusalError when nobody can serve it.

    ``complexity`` gives the group that ``auto`` would choose; it is only called when that matters.
    """
    if asked != AUTO and asked not in models.walks:
        return None
    name = wishes.tier or asked
    everyone = _everyone(models, name, complexity)
    able = [c for c in everyone if _lacks(c, needs) is None]
    if not able:
        raise _incapable(asked, needs, everyone)
    if _overflows(everyone[0], needs):
        # The cheapest model whose window fits; one whose window nobody knows only after those.
        able.sort(key=lambda c: (c.context is None, *price(c)))
    wanted = [c for c in able if c.free] if only_free else able
    fitting = [c for c in wanted if _affordable(c, needs, wishes.max_cost)]
    if not fitting:
        raise _too_dear(asked, needs, wishes.max_cost or 0.0, wanted or able)
    if wishes.no_fallback:
        if name in models.by_name and fitting[0].name != name:
            reason = _lacks(models.by_name[name], needs) or "is dearer than x-lm-max-cost"
            raise RefusalError(400, "model_unsuitable", f"{name} {reason}, and x-lm-no-fallback forbids another model.")
        fitting = fitting[:1]
    estimate = fitting[0].cost(needs.tokens_in, needs.paid_out)
    if len(fitting) == len(everyone) and not wishes.no_fallback:
        return Way(name, None, fitting[0], estimate)
    return Way(fitting[0].name, tuple(c.name for c in fitting[1:]), fitting[0], estimate)


def _everyone(models: Models, name: str, complexity: Callable[[], str]) -> tuple[Candidate, ...]:
    return models.walks[complexity() if name == AUTO else name]


def _lacks(candidate: Candidate, needs: Needs) -> str | None:
    """Why a model cannot take the request; None when it can, or nobody knows."""
    missing = needs.can - candidate.can if candidate.can is not None else frozenset()
    if missing:
        return f"cannot do {', '.join(sorted(missing))}"
    if _overflows(candidate, needs):
        return f"has room for {candidate.context} tokens, about {_room(needs)} are needed"
    return None


def _room(needs: Needs) -> int:
    return needs.tokens_in + (needs.tokens_out if needs.capped else 0)


def _overflows(candidate: Candidate, needs: Needs) -> bool:
    return candidate.context is not None and _room(needs) > candidate.context


def _affordable(candidate: Candidate, needs: Needs, max_cost: float | None) -> bool:
    if max_cost is None:
        return True
    cost = candidate.cost(needs.tokens_in, needs.paid_out)
    return cost is not None and cost <= max_cost


def _bad(name: str, value: str, wanted: str) -> RefusalError:
    return RefusalError(400, "invalid_request_error", f"{name}: '{value[:50]}' is not {wanted}.", param=name)


def _incapable(asked: str, needs: Needs, everyone: tuple[Candidate, ...]) -> RefusalError:
    reasons = "; ".join(f"{c.name} {_lacks(c, needs)}" for c in everyone[:3])
    return RefusalError(400, "no_capable_model", f"No model behind '{asked}' can take this request: {reasons}.")


def _too_dear(asked: str, needs: Needs, max_cost: float, able: list[Candidate]) -> RefusalError:
    priced = [(cost, c.name) for c in able if (cost := c.cost(needs.tokens_in, needs.paid_out)) is not None]
    cheapest = min(priced, default=None)
    best = f"the cheapest capable model, {cheapest[1]}, is estimated at {cheapest[0]:.6f} USD" if cheapest else "no capable model has a known price"  # fmt: skip
    return RefusalError(
        400, "max_cost_exceeded",
        f"Nothing behind '{asked}' fits x-lm-max-cost {max_cost:g} USD: {best} "
        f"({needs.tokens_in} tokens in, {needs.tokens_out} out).",
        max_cost_usd=max_cost, estimate_usd=cheapest[0] if cheapest else None,
    )  # fmt: skip
