"""The models that a request can go to, and the order in which a group tries them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

AUTO = "auto"  # the name that lets the gateway choose the group
# A group tries its own tier first, then the next tiers up, then the cheaper ones, so that no request is dropped.
GROUPS = {"cheap": (1, 2, 3), "standard": (2, 3, 1), "premium": (3, 2, 1)}
GROUP_OF_TIER = {tiers[0]: name for name, tiers in GROUPS.items()}
CAPABILITIES = ("tools", "vision", "json")

# US dollars per million tokens of input and output.
Rates = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A served chat model.

    ``context`` is in tokens. None means unknown for ``rates``, ``context`` and ``capabilities``; a model of unknown
    capabilities is assumed to have them all. Two names with the same ``litellm_model`` are one model. ``retired``: the
    provider ended this model, and its successor answers under the name.
    """

    name: str
    provider: str
    tier: int
    rates: Rates | None = None
    context: int | None = None
    capabilities: frozenset[str] | None = None
    litellm_model: str = ""
    retired: bool = False

    @property
    def free(self) -> bool:
        """Return whether the model costs nothing, as local models do."""
        return self.rates == (0.0, 0.0)

    @property
    def group(self) -> str:
        """Return the group of the model's own tier."""
        return GROUP_OF_TIER[self.tier]

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the US dollars for that many tokens; None when the price is unknown."""
        return None if self.rates is None else cost_at(self.rates, tokens_in, tokens_out)


def cost_at(rates: Rates, tokens_in: int, tokens_out: int) -> float:
    """Return the US dollars for that many tokens."""
    return (tokens_in * rates[0] + tokens_out * rates[1]) / 1_000_000


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return each model once. A retired name is left out when its successor is served: the second try would fail too."""
    members = list(candidates)
    current = {c.litellm_model for c in members if not c.retired}
    return [c for c in members if not c.retired or c.litellm_model not in current]


def fallback_order(candidates: Iterable[Candidate], tiers: tuple[int, ...]) -> tuple[Candidate, ...]:
    """Return the order in which a group tries its members: tier by tier, the cheapest first.

    At equal price local models come first. Then providers take turns, so that the next try is at another provider.
    """
    members = distinct(candidates)
    rank = {c.name: (tiers.index(c.tier), *price_key(c)) for c in members}
    ordered: list[Candidate] = []
    for _, tied in groupby(sorted(members, key=lambda c: (*rank[c.name], c.name)), key=lambda c: rank[c.name]):
        waiting = sorted(tied, key=lambda c: (not c.free, c.name))
        while waiting:
            last = ordered[-1].provider if ordered else None
            ordered.append(next((c for c in waiting if c.provider != last), waiting[0]))
            waiting.remove(ordered[-1])
    return tuple(ordered)


def fallbacks_of(candidates: Iterable[Candidate], model: Candidate) -> tuple[Candidate, ...]:
    """Return what replaces ``model`` when it fails: its own tier, then the others. Other names of it are left out."""
    order = fallback_order(candidates, GROUPS[model.group])
    return tuple(c for c in order if c.litellm_model != model.litellm_model)


def candidate_from(name: str, litellm_model: str, info: Mapping[str, Any]) -> Candidate | None:
    """Return the candidate for a rendered deployment's ``model_info``; None when the model does not chat."""
    tier, capabilities = info.get("lm_tier"), info.get("lm_can")
    if tier not in GROUP_OF_TIER:
        return None
    return Candidate(
        name, str(info.get("lm_provider")), tier, rates_from(info.get("lm_rates")), info.get("lm_context"),
        None if capabilities is None else frozenset(capabilities), litellm_model, bool(info.get("lm_heir")),
    )  # fmt: skip


def rates_from(found: object) -> Rates | None:
    """Return the rates that a rendered deployment states as ``lm_rates``; None when it states none."""
    return (float(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


def price_key(candidate: Candidate) -> tuple[bool, float]:
    """Return a key to sort by: a blend of three input tokens and one output token. Unknown prices come last."""
    rates = candidate.rates
    return (rates is None, 0.0 if rates is None else 3 * rates[0] + rates[1])
