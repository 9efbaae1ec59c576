"""route, budget: where a request would go, and what it may cost."""

import math
import time
from typing import Annotated, Any

import typer

from lmstack import files
from lmstack.catalog.models import parse_catalog
from lmstack.cli.app import Context, app, command
from lmstack.config.modelsfile import set_budget
from lmstack.config.spelling import did_you_mean
from lmstack.errors import ConfigError, LmError, NoLedgerError, UsageError
from lmstack.operate.planning import ask, planned
from lmstack.result import Result, table, usd
from lmstack.routing.budgets import PERIODS, dump_limits
from lmstack.routing.candidates import GROUPS
from lmstack.routing.classify import Decision, decide
from lmstack.routing.needs import needs_of
from lmstack.routing.policy import AUTO, RefusalError, Way, Wishes, choose
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
    """Explain where a prompt would go: score, signals, group, models in order, estimated cost. Asks nobody."""
    if tier is not None and tier not in GROUPS:
        raise UsageError(f"there is no tier '{tier}'", did_you_mean(tier, GROUPS) or f"one of {', '.join(GROUPS)}")
    plan = planned(context.project, {}).plan
    if not plan.models.by_name:
        raise no_models(plan)
    decision = decide(prompt)
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    needs = needs_of(body)
    try:
        way = choose(plan.models, model, Wishes(tier, max_cost), needs, lambda: decision.group)
    except RefusalError as refusal:
        raise LmError(refusal.message, "ask for a cheaper model, or allow more") from None
    if way is None:
        raise LmError(f"'{model}' is not served", did_you_mean(model, plan.names) or "see: lm models")
    walk = _walk(plan, way, decision)
    data = {
        "asked": model, "score": round(decision.score, 3), "cuts": list(CUTS), "group": decision.group,
        "signals": {name: round(share, 3) for name, share in decision.signals},
        "model": way.first.name, "provider": way.first.provider, "tier": way.first.tier, "fallbacks": walk[1:],
        "tokens_in": needs.tokens_in, "tokens_out": needs.tokens_out, "estimate_usd": way.estimate,
    }  # fmt: skip
    return Result("route", data, tuple(_explained(model, decision, way, walk, needs.tokens_in, needs.tokens_out)))


@command("show", "lm budget show", budget_app)
def budget_show(context: Context) -> Result:
    """Every limit of models.yaml, with what was spent and what is under way."""
    rules = context.project.catalog().rules.budgets
    try:
        rows = ask(context.project, "budgets", rules=dump_limits(rules)) if rules else []
    except NoLedgerError:  # nothing was spent
        rows = [{**r.refusal(0.0, time.time()), "reserved_usd": 0.0, "rule": r.name or None} for r in rules]
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
    """Take a limit out of models.yaml."""
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


def _walk(plan: Plan, way: Way, decision: Decision) -> list[str]:
    if way.fallbacks is not None:
        return [way.model, *way.fallbacks]
    group = decision.group if way.model == AUTO else way.model
    return list(plan.groups[group] if group in plan.groups else (way.model, *plan.fallbacks[way.model]))


def _explained(model: str, decision: Decision, way: Way, walk: list[str], tokens_in: int, tokens_out: int) -> list[str]:
    signals: list[Any] = [f"{name} {share:+.2f}" for name, share in decision.signals[:6]]
    return [
        f"score     {decision.score:.2f} -> {decision.group} (cheap < {CUTS[0]:g} <= standard < {CUTS[1]:g} <= premium)",
        f"signals   {', '.join(signals) or 'none'}",
        f"asked     {model}{'' if model == AUTO else ', so the score does not matter'}",
        f"model     {way.first.name} ({way.first.provider}, {way.first.group})",
        f"then      {', '.join(walk[1:5])}{', ...' if len(walk) > 5 else ''}" if walk[1:] else "then      nobody",
        f"estimate  {usd(way.estimate)} ({tokens_in} tokens in, {tokens_out} out)",
    ]
