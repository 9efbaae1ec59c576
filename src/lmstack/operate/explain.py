"""Explain where a prompt would go, with the decision code of the gateway. Calls no provider."""

from dataclasses import dataclass

from lmstack.config.spelling import did_you_mean
from lmstack.errors import LmError, UsageError
from lmstack.operate.planning import planned
from lmstack.routing.candidates import AUTO, Candidate
from lmstack.routing.classify import Complexity, classify
from lmstack.routing.needs import Needs
from lmstack.routing.policy import ChosenBy, Decision, decide
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import Request, read
from lmstack.routing.rules import RoutingRules
from lmstack.stack.plan import Plan, no_models
from lmstack.stack.project import Project


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a prompt would go. ``models``: every name in the order in which it is tried. ``estimate`` is in USD."""

    complexity: Complexity
    first: Candidate
    estimate: float | None
    needs: Needs
    models: list[str]


def explain_route(
    project: Project, prompt: str, model: str, tier: str | None, max_cost: float | None, max_tokens: int | None
) -> Explanation:
    """Decide on one prompt. Raises LmError when the name is not served, or when no model can serve the prompt."""
    plan = planned(project, {}).plan
    if not plan.models.by_name:
        raise no_models(plan)
    complexity, request = classify(prompt), _request(prompt, model, tier, max_cost, max_tokens)
    try:
        decision = decide(request, plan.models, RoutingRules())
    except RefusalError as refusal:
        raise LmError(refusal.message, "ask for a cheaper model, or allow a higher cost") from None
    if decision.first is None:
        raise LmError(f"'{model}' is not served", did_you_mean(model, plan.names) or "see: lm models")
    order = _order(plan, decision, complexity.group)
    return Explanation(complexity, decision.first, decision.reserved_usd, request.needs, order)


def _request(prompt: str, model: str, tier: str | None, max_cost: float | None, max_tokens: int | None) -> Request:
    """Return the request that a client would send."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    headers = {"x-lm-tier": tier, "x-lm-max-cost": None if max_cost is None else str(max_cost)}
    try:
        return read(body, {name: value for name, value in headers.items() if value is not None}, "acompletion")
    except RefusalError as refusal:
        raise UsageError(refusal.message, "see: lm route --help") from None


def _order(plan: Plan, decision: Decision, auto_group: str) -> list[str]:
    name = str(decision.model)
    if decision.chosen_by is ChosenBy.GATEWAY:
        return [name, *decision.fallbacks]
    group = auto_group if name == AUTO else name
    return list(plan.groups[group] if group in plan.groups else (name, *plan.fallbacks[name]))
