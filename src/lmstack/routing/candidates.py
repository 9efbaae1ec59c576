"""The models that can be chosen from, and the order in which a group tries them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

# A group tries its own tier first, then the next up ("never drop a request"), the cheaper ones last.
GROUPS = {"cheap": (1, 2, 3), "standard": (2, 3, 1), "premium": (3, 2, 1)}
GROUP_OF_TIER = {tiers[0]: name for name, tiers in GROUPS.items()}
CAPABILITIES = ("tools", "vision", "json")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A served chat model. ``rates``: USD per million tokens in and out, None = unknown; ``context`` in tokens;
    ``can``: what it supports, None = unknown and assumed; ``door``: two names with one door are one model."""

    name: str
    provider: str
    tier: int
    rates: tuple[float, float] | None = None
    context: int | None = None
    can: frozenset[str] | None = None
    door: str = ""
    heir: bool = False  # a retired name, served by its successor

    @property
    def free(self) -> bool:
        """It costs nothing: a local model."""
        return self.rates == (0.0, 0.0)

    @property
    def group(self) -> str:
        """The group of its own tier."""
        return GROUP_OF_TIER[self.tier]

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """US dollars for that many tokens; None when nobody knows the price."""
        return None if self.rates is None else cost_at(self.rates, tokens_in, tokens_out)


def cost_at(rates: tuple[float, float], tokens_in: int, tokens_out: int) -> float:
    """US dollars for that many tokens, at ``rates`` in US dollars per million in and out."""
    return (tokens_in * rates[0] + tokens_out * rates[1]) / 1_000_000


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Each model once: a retired name is a second door to its successor, and trying that twice would be no fallback."""
    members = list(candidates)
    doors = {c.door for c in members if not c.heir}
    return [c for c in members if not c.heir or c.door not in doors]


def walk(candidates: Iterable[Candidate], tiers: tuple[int, ...]) -> tuple[Candidate, ...]:
    """The order in which a group tries its members: tier by tier, cheapest first; at equal price local models first,
    then providers take turns, so that the next try is at another provider than the last failure."""
    members = distinct(candidates)
    rank = {c.name: (tiers.index(c.tier), *price(c)) for c in members}
    ordered: list[Candidate] = []
    for _, tied in groupby(sorted(members, key=lambda c: (*rank[c.name], c.name)), key=lambda c: rank[c.name]):
        waiting = sorted(tied, key=lambda c: (not c.free, c.name))
        while waiting:
            last = ordered[-1].provider if ordered else None
            ordered.append(next((c for c in waiting if c.provider != last), waiting[0]))
            waiting.remove(ordered[-1])
    return tuple(ordered)


def heirs(candidates: Iterable[Candidate], asked: Candidate) -> tuple[Candidate, ...]:
    """What stands in for a model that was asked for by name: its tier, then upwards; never a door of the same model."""
    return tuple(c for c in walk(candidates, GROUPS[asked.group]) if c.door != asked.door)


def of_deployment(name: str, door: str, info: Mapping[str, Any]) -> Candidate | None:
    """A candidate from a rendered deployment's ``model_info`` (lmstack.stack.render writes it); None for what is not chat."""
    tier, rates, can = info.get("lm_tier"), info.get("lm_rates"), info.get("lm_can")
    if tier not in GROUP_OF_TIER:
        return None
    return Candidate(
        name, str(info.get("lm_provider")), tier, rates_of(rates),
        info.get("lm_context"), None if can is None else frozenset(can), door, bool(info.get("lm_heir")),
    )  # fmt: skip


def rates_of(found: object) -> tuple[float, float] | None:
    """The ``lm_rates`` of a rendered deployment: USD per million tokens in and out."""
    return (float(found[0]), float(found[1])) if isinstance(found, list) and len(found) == 2 else None


def price(candidate: Candidate) -> tuple[bool, float]:
    """A key to sort by. Unknown prices come last; otherwise a blend of three input tokens to one output token."""
    rates = candidate.rates
    return (rates is None, 0.0 if rates is None else 3 * rates[0] + rates[1])
