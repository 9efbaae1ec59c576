"""Decide where a request goes and what it may cost. Pure: `lm route` and the gateway use the same function."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from lmstack.routing import refusals
from lmstack.routing.budgets import Limit
from lmstack.routing.candidates import (
    AUTO,
    CAPABILITIES,
    GROUPS,
    Candidate,
    cost_at,
    fallback_order,
    fallbacks_of,
    price_key,
)
from lmstack.routing.native_gemini import is_google
from lmstack.routing.needs import BYTES_PER_TOKEN, Needs
from lmstack.routing.prices import REALTIME, UNKNOWN, Price, estimate, is_counted_in_tokens, is_free
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import NATIVE_GEMINI, Request, RoutingOptions
from lmstack.routing.rules import RoutingRules


class Models:
    """Every served chat model, and the order of tries for each name; made once per configuration."""

    def __init__(self, candidates: Iterable[Candidate], price_of: Mapping[str, Price] | None = None) -> None:
        self.by_name = {c.name: c for c in candidates}
        self.price_of = price_of or {}
        self.orders = {group: fallback_order(self.by_name.values(), tiers) for group, tiers in GROUPS.items()}
        self.orders |= {c.name: (c, *fallbacks_of(self.by_name.values(), c)) for c in self.by_name.values()}
        self.smallest_context = min((c.context for c in self.by_name.values() if c.context), default=0)
        self.all_capable = all(
            c.capabilities is None or c.capabilities >= set(CAPABILITIES) for c in self.by_name.values()
        )

    def price(self, name: str | None) -> Price:
        """Return the price of a served name that is no group."""
        return self.price_of.get(name, UNKNOWN) if name is not None else UNKNOWN


class ChosenBy(Enum):
    """Who chooses the model."""

    LITELLM = "LiteLLM: the gateway does not route this type of call, or does not know the name"
    CONFIGURATION = "the order that is configured for the name"
    GATEWAY = "this decision: a model, and the list of its fallbacks"


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes and what it may cost, in US dollars.

    ``model`` and ``fallbacks``: the name for LiteLLM, and what to try after it where the gateway chose them. ``first``: the
    candidate that is tried first; None when that was not worked out. ``minimum_usd``: the least that the request costs; it
    is charged when no answer is ever seen. ``reserved_usd``: what its budgets keep aside while it runs.
    """

    chosen_by: ChosenBy
    model: str | None
    fallbacks: tuple[str, ...] = ()
    first: Candidate | None = None
    no_fallback: bool = False
    limits: tuple[Limit, ...] = ()
    minimum_usd: float | None = None
    reserved_usd: float | None = None


def decide(request: Request, models: Models, rules: RoutingRules) -> Decision:
    """Return the decision for a request. Raises RefusalError when no model can serve it as it asks."""
    limits = rules.limits_of(request)
    _require_allowed(request, models)
    if not request.is_routed or (request.model != AUTO and request.model not in models.orders):
        return _unrouted(request, models, limits)
    options = rules.options_of(request)
    is_free_to_go = not options and not limits and request.client.allows is None
    if is_free_to_go and not _is_ours_to_choose(request) and _any_model_fits(request, models):
        minimum = _minimum(request, models.price(request.model).rates)
        return Decision(ChosenBy.CONFIGURATION, request.model, minimum_usd=minimum)
    return _chosen(request, models, options, limits)


def decide_free(request: Request, models: Models) -> Decision | None:
    """Return the decision that uses free models only, after a budget is used up; None without any."""
    if not request.is_routed or request.model is None:
        return None
    model = models.by_name.get(request.model)
    if (model is not None and not model.free) or (model is None and request.model not in (AUTO, *models.orders)):
        return None
    order = [c for c in _allowed_order(request.model, request, models) if _shortcoming(c, request) is None and c.free]
    if not order:
        return None
    options = RoutingOptions(no_fallback=request.options.no_fallback)
    return _list_of(order[:1] if options.no_fallback else order, request, options, ())


def _unrouted(request: Request, models: Models, limits: tuple[Limit, ...]) -> Decision:
    decision = _priced_as_a_whole(request, models, limits)
    if request.has_fallbacks and request.client.allows is None:
        return decision
    # A configured fallback is a chat model, which can neither transcribe nor embed.
    return replace(decision, no_fallback=request.has_fallbacks or request.model in models.by_name)


def _priced_as_a_whole(request: Request, models: Models, limits: tuple[Limit, ...]) -> Decision:
    price = models.price(request.model)
    in_tokens = is_counted_in_tokens(request)
    reserved = estimate(request, price) if limits or not in_tokens else None
    minimum = _minimum(request, price.rates) if in_tokens else reserved
    if not limits and request.call_type in REALTIME:
        minimum = None  # a session may be short or take an hour
    if not limits or is_free(request, price):
        return Decision(ChosenBy.LITELLM, request.model, minimum_usd=minimum)
    if reserved is None:
        raise refusals.cost_unknown(request.model, request.call_type)
    return Decision(ChosenBy.LITELLM, request.model, limits=limits, minimum_usd=minimum, reserved_usd=reserved)


def _chosen(request: Request, models: Models, options: RoutingOptions, limits: tuple[Limit, ...]) -> Decision:
    name = options.tier or str(request.model)
    order = _order(name, request, models)
    fitting = _filter(order, request, options)
    if limits:
        fitting = _priced(name, fitting, request, options)
    if options.no_fallback:
        _require_named(name, fitting[0], request, models)
        return _list_of(fitting[:1], request, options, limits)
    decision = _list_of(fitting, request, options, limits)
    if request.client.allows is not None or len(fitting) < len(order) or (name == AUTO and _is_ours_to_choose(request)):
        return decision
    return replace(decision, chosen_by=ChosenBy.CONFIGURATION, model=name, fallbacks=(), limits=limits)


def _is_ours_to_choose(request: Request) -> bool:
    """Return whether LiteLLM cannot choose a model for ``auto``: it asks no strategy for native Gemini calls."""
    return request.model == AUTO and request.call_type in NATIVE_GEMINI


def _priced(name: str, fitting: Sequence[Candidate], request: Request, options: RoutingOptions) -> list[Candidate]:
    """Return the candidates of known price: a budget cannot count the others. Raises RefusalError without any."""
    priced = [c for c in fitting if c.rates is not None]
    if not priced or (options.no_fallback and fitting[0].name == name and priced[0] is not fitting[0]):
        raise refusals.cost_unknown(request.model, request.call_type)
    return priced


def _require_named(name: str, first: Candidate, request: Request, models: Models) -> None:
    """Raise RefusalError when ``name`` is a model that cannot serve the request itself."""
    if name in models.by_name and first.name != name:
        reason = _shortcoming(models.by_name[name], request) or "costs more than x-lm-max-cost"
        raise refusals.model_unsuitable(name, reason)


def _order(name: str, request: Request, models: Models) -> tuple[Candidate, ...]:
    """Return the candidates of a name in the order of tries. Raises RefusalError when the client may use none of them."""
    order = _allowed_order(name, request, models)
    if not order:
        raise refusals.model_not_allowed(name, request.client.key)
    return order


def _allowed_order(name: str, request: Request, models: Models) -> tuple[Candidate, ...]:
    order, allows = models.orders[request.group if name == AUTO else name], request.client.allows
    return order if allows is None else tuple(c for c in order if allows(c.name, c.tier))


def _require_allowed(request: Request, models: Models) -> None:
    """Raise RefusalError when the client names a model that its key may not use, or none where LiteLLM would choose one."""
    allows, name = request.client.allows, request.model
    if allows is None or (request.is_routed and (name == AUTO or name in GROUPS)):
        return
    chat, is_group = models.by_name.get(name or ""), name in GROUPS or name == AUTO
    is_known = chat is not None or name in models.price_of  # openai/gpt-4o is not, and LiteLLM serves it too
    if name is None or is_group or not is_known or not allows(name, chat.tier if chat else None):
        raise refusals.model_not_allowed(name, request.client.key)


def _filter(order: Sequence[Candidate], request: Request, options: RoutingOptions) -> list[Candidate]:
    """Return the candidates that can take the request and that it may pay for. Raises RefusalError without any."""
    needs = request.needs
    able = [c for c in order if _shortcoming(c, request) is None]
    if not able:
        reasons = ((c, str(_shortcoming(c, request))) for c in order[:3])
        raise refusals.no_capable_model(str(request.model), reasons)
    if _overflows(order[0], needs):
        # The cheapest model with enough context comes first. Models of unknown context come last.
        able.sort(key=lambda c: (c.context is None, *price_key(c)))
    affordable = [c for c in able if _affordable(c, needs, options.max_cost)]
    if not affordable:
        raise refusals.max_cost_exceeded(str(request.model), needs, options.max_cost or 0.0, able)
    return affordable


def _list_of(
    chosen: Sequence[Candidate], request: Request, options: RoutingOptions, limits: tuple[Limit, ...]
) -> Decision:
    """Return the decision for a list of candidates, each tried when the one before it failed."""
    first, needs = chosen[0], request.needs
    free = first.free and len(chosen) == 1  # where a paid model may replace a free one, the limits count
    return Decision(
        ChosenBy.GATEWAY, first.name, tuple(c.name for c in chosen[1:]), first, options.no_fallback, () if free else limits,
        _minimum(request, first.rates), first.cost(needs.tokens_in, needs.paid_out),
    )  # fmt: skip


def _minimum(request: Request, rates: tuple[float, float] | None) -> float | None:
    """Return the cost of the request's input, from its length where that is known; None when the price is unknown."""
    if rates is None:
        return None
    size = request.size
    return cost_at(rates, request.needs.tokens_in if size is None else size // BYTES_PER_TOKEN, 0)


def _any_model_fits(request: Request, models: Models) -> bool:
    """Return whether every model can surely take the request. True for most requests, and much faster than needs."""
    if request.needs_google or not request.fits(models.smallest_context):
        return False
    return models.all_capable or not request.has_special_content


def _shortcoming(candidate: Candidate, request: Request) -> str | None:
    """Return why a model cannot take the request; None when it can, or when nothing is known against it."""
    needs = request.needs
    if request.needs_google and not is_google(candidate.litellm_model):
        return "would get only the text and the functions of a native Gemini call, and this one has more"
    missing = needs.capabilities - candidate.capabilities if candidate.capabilities is not None else frozenset()
    if missing:
        return f"cannot do {', '.join(sorted(missing))}"
    if _overflows(candidate, needs):
        return f"has room for {candidate.context} tokens, about {needs.context} are needed"
    return None


def _overflows(candidate: Candidate, needs: Needs) -> bool:
    return candidate.context is not None and needs.context > candidate.context


def _affordable(candidate: Candidate, needs: Needs, max_cost: float | None) -> bool:
    if max_cost is None:
        return True
    cost = candidate.cost(needs.tokens_in, needs.paid_out)
    return cost is not None and cost <= max_cost


__all__ = ["ChosenBy", "Decision", "Models", "RefusalError", "decide", "decide_free"]
