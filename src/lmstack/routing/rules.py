"""The rules of models.yaml that apply to a request: options of its task and agent, and limits in US dollars. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lmstack.routing.budgets import Limit, limits_for
from lmstack.routing.candidates import AUTO
from lmstack.routing.request import NO_OPTIONS, Request, RoutingOptions


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """models.yaml's rules: options for each task and agent, and limits in US dollars."""

    tasks: Mapping[str, RoutingOptions] = field(default_factory=dict)
    agents: Mapping[str, RoutingOptions] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()

    def options_of(self, request: Request) -> RoutingOptions:
        """Return the options of a request, completed by those of its task, then by those of its agent."""
        if not (self.tasks or self.agents):
            return request.options
        default = self.tasks.get(request.task or "", NO_OPTIONS).completed_by(
            self.agents.get(request.agent or "", NO_OPTIONS)
        )
        if request.model != AUTO:  # a default tier is for clients that let the gateway choose the model
            default = replace(default, tier=None)
        return request.options.completed_by(default)

    def limits_of(self, request: Request) -> tuple[Limit, ...]:
        """Return the limits that apply to a request."""
        client = request.client
        if not self.limits and request.task_budget is None and not client.budgets:
            return ()
        names = {"task": request.task, "agent": request.agent, "team": client.team, "key": client.key}
        return limits_for(self.limits, names, client.budgets, request.task_budget)
