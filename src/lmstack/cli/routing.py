"""The commands `lm route` and `lm budget`: where a request would go, and what it may cost."""

import math
import time
from typing import Annotated

import typer

from lmstack import files
from lmstack.catalog.models import parse_catalog
from lmstack.cli.app import Context, app, command
from lmstack.config.modelsfile import set_budget
from lmstack.config.yamlfile import did_you_mean
from lmstack.errors import ConfigError, LmError, NoLedgerError, UsageError
from lmstack.operate.planning import ask, planned
from lmstack.result import Result, table, usd
from lmstack.routing.budgets import PERIODS, dump_limits
from lmstack.routing.candidates import GROUPS
from lmstack.routing.classify import Complexity, classify
from lmstack.routing.policy import AUTO, Decision, Route, RoutingRules, decide
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import Request, read
from lmstack.routing.weights import CUTS
from lmstack.runtime.local import no_models
from lmstack.stack.plan import Plan
from lmstack.stack.project import shipped_catalog

budget_app = typer.Typer(name="budget", help="Limits in US dollars.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(budget_app)

_SCOPE = Annotated[str, typer.Argument(help="all, task or agent.")]
_NAME = Annotated[str, typer.Argument(help="Which task or agent; '*' for each without an own limit.")]
_PERIOD = Annotated[str, typer.Option("--period", help="day (UTC) or total.")]


@command("route", 'lm route "Prove that there are infinitely many primes"')
def route(
    context: Context,
    prompt: Annotated[str, typer.Argument(help="What a user would ask.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The name that is asked for.")] = AUTO,
    tier: Annotated[str | None, typer.Option("--tier", help="As header x-lm-tier.")] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", help="As header x-lm-max-cost, USD.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="The answer's limit, tokens.")] = None,
) -> Result:
    """Explain where a prompt would go: score, signals, group, models in order, estimated cost. Calls no provider."""
    if tier is not None and tier not in GROUPS:
        raise UsageError(f"there is no tier '{tier}'", did_you_mean(tier, GROUPS) or f"one of {', '.join(GROUPS)}")
    plan = planned(context.project, {}).plan
    if not plan.models.by_name:
        raise no_models(plan)
    complexity, request = classify(prompt), _request(prompt, model, tier, max_cost, max_tokens)
    try:
        decision = decide(request, plan.models, RoutingRules())
    except RefusalError as refusal:
        raise LmError(refusal.message, "ask for a cheaper model, or allow more") from None
    first = decision.first
    if first is None:
        raise LmError(f"'{model}' is not served", did_you_mean(model, plan.names) or "see: lm models")
    needs, order = request.needs, _order(plan, decision, complexity)
    data = {
        "asked": model, "score": round(complexity.score, 3), "cuts": list(CUTS), "group": complexity.group,
        "signals": {name: round(share, 3) for name, share in complexity.signals},
        "model": first.name, "provider": first.provider, "tier": first.tier, "fallbacks": order[1:],
        "tokens_in": needs.tokens_in, "tokens_out": needs.tokens_out, "estimate_usd": decision.reserved_usd,
    }  # fmt: skip
    signals = [f"{name} {share:+.2f}" for name, share in complexity.signals[:6]]
    lines = (
        f"score     {complexity.score:.2f} -> {complexity.group} (cheap < {CUTS[0]:g} <= standard < {CUTS[1]:g} <= premium)",
        f"signals   {', '.join(signals) or 'none'}",
        f"asked     {model}{'' if model == AUTO else ', so the score does not matter'}",
        f"model     {first.name} ({first.provider}, {first.group})",
        f"then      {', '.join(order[1:5]) or 'no other model'}{', ...' if len(order) > 5 else ''}",
        f"estimate  {usd(decision.reserved_usd)} ({needs.tokens_in} tokens in, {needs.tokens_out} out)",
    )
    return Result("route", data, lines)


def _request(prompt: str, model: str, tier: str | None, max_cost: float | None, max_tokens: int | None) -> Request:
    """Return the request that a client would send."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    headers = {"x-lm-tier": tier, "x-lm-max-cost": None if max_cost is None else str(max_cost)}
    try:
        return read(body, {name: value for name, value in headers.items() if value is not None}, "acompletion")
    except RefusalError as refusal:
        raise UsageError(refusal.message, "see: lm route --help") from None


def _order(plan: Plan, decision: Decision, complexity: Complexity) -> list[str]:
    """Return the models in the order of tries."""
    if decision.route is Route.CHOSEN or decision.model is None:
        return [str(decision.model), *decision.fallbacks]
    group = complexity.group if decision.model == AUTO else decision.model
    return list(plan.groups[group] if group in plan.groups else (decision.model, *plan.fallbacks[decision.model]))


@command("show", "lm budget show", budget_app)
def budget_show(context: Context) -> Result:
    """Every limit of models.yaml, with what was spent and what is under way."""
    rules = context.project.catalog().rules.budgets
    try:
        rows = ask(context.project, "budgets", rules=dump_limits(rules)) if rules else []
    except NoLedgerError:  # nothing was spent
        now = time.time()
        rows = [{**r.state(0.0, r.reset_at(now)), "reserved_usd": 0.0, "rule": r.name or None} for r in rules]
    shown = [
        (
            r["scope"], r["name"] or "-", r["period"], usd(r["limit_usd"]), usd(r["spent_usd"]), usd(r["reserved_usd"]),
            "used up" if not r["limit_usd"] or r["spent_usd"] >= r["limit_usd"] else f"{100 * r['spent_usd'] / r['limit_usd']:.0f} %",
        )
        for r in rows
    ]  # fmt: skip
    header = ("SCOPE", "NAME", "PERIOD", "LIMIT", "SPENT", "UNDER WAY", "USED")
    hint = ("No budgets. Set one with: lm budget set task TM-42 0.50",)
    return Result("budget show", {"budgets": rows}, table(header, shown, frozenset({3, 4, 5, 6})) if rules else hint)


@command("set", "lm budget set agent coder 2.00 --period day", budget_app)
def budget_set(
    context: Context,
    scope: _SCOPE,
    name: _NAME,
    amount: Annotated[float, typer.Argument(help="US dollars.")],
    period: _PERIOD = "day",
) -> Result:
    """Write a limit into models.yaml; comments stay. For everybody: lm budget set all - 5."""
    if not 0 <= amount < float("inf"):
        raise UsageError(f"a budget cannot be {amount:g} USD", "give 0 or more")
    return _edit(context, "budget set", scope, name, period, amount)


@command("unset", "lm budget unset agent coder --period day", budget_app)
def budget_unset(context: Context, scope: _SCOPE, name: _NAME, period: _PERIOD = "day") -> Result:
    """Remove a limit from models.yaml."""
    return _edit(context, "budget unset", scope, name, period, None)


def _edit(context: Context, name: str, scope: str, whose: str, period: str, amount: float | None) -> Result:
    for value, known in ((scope, ("all", "task", "agent")), (period, PERIODS)):
        if value not in known:
            raise UsageError(f"'{value}' is not one of {', '.join(known)}", did_you_mean(value, known))
    context.project.catalog()  # a file with mistakes in it is not edited
    file = context.project.models_file
    old = files.read(file) or ""
    new = set_budget(old, scope, whose, period, amount)
    _check_edit(old, new, (scope, "" if scope == "all" else whose, period), amount)
    changed = new != old and files.write(file, new)
    data = {"file": str(file), "changed": changed, "scope": scope, "name": None if scope == "all" else whose, "period": period, "limit_usd": amount}  # fmt: skip
    lines = (f"{file.name}: {'written' if changed else 'unchanged'}", *(("Next: lm up (applies it)",) if changed else ()))  # fmt: skip
    return Result(name, data, lines)


def _check_edit(old: str, new: str, edited: tuple[str, str, str], amount: float | None) -> None:
    """ConfigError unless the new text is readable and differs from the old one in this limit alone: an alias may carry a
    change to others."""
    before, after = _limits(old), _limits(new)
    before.pop(edited, None)
    written = after.pop(edited, None)
    same = written is None if amount is None else written is not None and math.isclose(written, amount, rel_tol=1e-6)
    if not same or before != after:
        raise ConfigError(
            "models.yaml is written in a way that this change would carry to other limits; nothing was changed",
            "edit the file by hand, then: lm validate",
        )


def _limits(text: str) -> dict[tuple[str, str, str], float]:
    return {(r.scope, r.name, r.period): r.usd for r in parse_catalog(shipped_catalog(), text).rules.budgets}
