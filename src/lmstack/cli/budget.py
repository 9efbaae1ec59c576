"""budget: show and edit limits in US dollars."""

from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.options import OneOf
from lmstack.config.rules import SCOPES
from lmstack.errors import UsageError
from lmstack.operate.budgets import budget_rows, edit_budget, waits_for_up
from lmstack.result import Result, table, usd
from lmstack.routing.budgets import PERIODS

budget_app = typer.Typer(
    name="budget", help="Show and edit limits in US dollars.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(budget_app)

_WAITS = "the running gateway has other limits: models.yaml was changed after its start. Apply these with: lm up"
_SCOPE = Annotated[str, typer.Argument(help="What the limit is for."), OneOf(tuple(SCOPES.values()))]
_NAME = Annotated[str, typer.Argument(help="The task, agent, team or key. '*' means each one without its own limit. With all: '-'.")]  # fmt: skip
_PERIOD = Annotated[
    str, typer.Option("--period", help="Per hour, day, week or month (UTC), or in total."), OneOf(PERIODS)
]


@command("show", "lm budget show", budget_app)
def budget_show(context: Context) -> Result:
    """Show every limit with its spending. RESERVED is kept aside for open requests."""
    rows = budget_rows(context.project)
    remarks = (_WAITS,) if waits_for_up(context.project) else ()
    if not rows:
        return Result("budget show", {"budgets": rows}, ("There are no budgets. Set one with: lm budget set task TM-42 0.50",), remarks)  # fmt: skip
    shown = [
        (
            r["scope"], r["name"] or "-", r["period"], usd(r["limit_usd"]), usd(r["spent_usd"]), usd(r["reserved_usd"]),
            _used(r["spent_usd"], r["limit_usd"]),
        )
        for r in rows
    ]  # fmt: skip
    header = ("SCOPE", "NAME", "PERIOD", "LIMIT", "SPENT", "RESERVED", "USED")
    return Result("budget show", {"budgets": rows}, table(header, shown, frozenset({3, 4, 5, 6})), remarks)


@command("set", "lm budget set agent coder 2.00 --period day", budget_app)
def budget_set(
    context: Context,
    scope: _SCOPE,
    name: _NAME,
    amount: Annotated[float, typer.Argument(help="The limit in US dollars.")],
    period: _PERIOD = "day",
) -> Result:
    """Write a limit into models.yaml. Comments in the file stay. For everybody: lm budget set all - 5"""
    if not 0 <= amount < float("inf"):
        raise UsageError(f"a budget cannot be {amount:g} USD", "give 0 or more")
    return _edited(context, "budget set", scope, name, period, amount)


@command("unset", "lm budget unset agent coder --period day", budget_app)
def budget_unset(context: Context, scope: _SCOPE, name: _NAME, period: _PERIOD = "day") -> Result:
    """Remove a limit from models.yaml."""
    return _edited(context, "budget unset", scope, name, period, None)


def _edited(context: Context, command_name: str, scope: str, name: str, period: str, amount: float | None) -> Result:
    file = context.project.models_file
    changed = edit_budget(context.project, scope, name, period, amount)
    data: dict[str, Any] = {"file": str(file), "changed": changed, "scope": scope, "name": None if scope == "all" else name, "period": period, "limit_usd": amount}  # fmt: skip
    lines = (f"{file.name}: written", "Apply it with: lm up") if changed else (f"{file.name}: unchanged",)
    return Result(command_name, data, lines)


def _used(spent: float, limit: float) -> str:
    return "used up" if not limit or spent >= limit else f"{100 * spent / limit:.0f} %"
