"""Explain where a prompt would go, with the decision code of the gateway. Calls nobody."""

from dataclasses import dataclass

from lmstack.config.yamlfile import did_you_mean
from lmstack.errors import LmError
from lmstack.operate.planning import planned
from lmstack.routing.classify import Decision, decide
from lmstack.routing.needs import Needs, needs_of
from lmstack.routing.policy import AUTO, RefusalError, Way, Wishes, choose
from lmstack.stack.plan import Plan, no_models
from lmstack.stack.project import Project


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a prompt would go. ``models``: every name in the order in which it is tried."""

    decision: Decision
    route: Way
    needs: Needs
    models: list[str]


def explain_route(project: Project, prompt: str, model: str, wishes: Wishes, max_tokens: int | None) -> Explanation:
    """Decide on one prompt. Raises LmError when the name is not served, or when no model can serve the prompt."""
    plan = planned(project, {}).plan
    if not plan.models.by_name:
        raise no_models(plan)
    decision = decide(prompt)
    needs = needs_of({"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens})
    try:
        route = choose(plan.models, model, wishes, needs, lambda: decision.group)
    except RefusalError as refusal:
        raise LmError(refusal.message, "ask for a cheaper model, or allow a higher cost") from None
    if route is None:
        raise LmError(f"'{model}' is not served", did_you_mean(model, plan.names) or "see: lm models")
    return Explanation(decision, route, needs, _order(plan, route, decision))


def _order(plan: Plan, route: Way, decision: Decision) -> list[str]:
    if route.fallbacks is not None:
        return [route.model, *route.fallbacks]
    group = decision.group if route.model == AUTO else route.model
    return list(plan.groups[group] if group in plan.groups else (route.model, *plan.fallbacks[route.model]))
