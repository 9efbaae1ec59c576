"""key, audit: the operator's key, and a key for each agent."""

import json
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.options import LIMIT, SINCE, key_names
from lmstack.errors import UsageError
from lmstack.operate import keys as flow
from lmstack.operate import settings_edit
from lmstack.operate.planning import seconds
from lmstack.result import Result, table, usd
from lmstack.routing.candidates import GROUP_OF_TIER

key_app = typer.Typer(
    name="key", help="The operator's key, and a key with limits for each agent.", no_args_is_help=True, rich_markup_mode=None
)  # fmt: skip
app.add_typer(key_app)

NAME = Annotated[str, typer.Argument(help="The name of the key.", autocompletion=key_names)]
_MAYBE = Annotated[
    str | None, typer.Argument(help="The name of a key. Default: the master key.", autocompletion=key_names)
]
AGENT = Annotated[str | None, typer.Option("--agent", help="Its agent, in place of x-agent-id. Default: the key's name. '*': what the client says.")]  # fmt: skip
TEAM = Annotated[str | None, typer.Option("--team", help="The team that it counts for.")]
MODELS = Annotated[str | None, typer.Option("--models", help="Only these models, e.g. gpt-4o-mini,claude-*.")]
TIERS = Annotated[str | None, typer.Option("--tiers", help="Only chat models of these tiers, e.g. cheap,standard.")]
ROUTES = Annotated[str | None, typer.Option("--routes", help="Only these kinds of calls, e.g. chat,embeddings. files and batches must be named.")]  # fmt: skip
TASKS = Annotated[str | None, typer.Option("--tasks", help="A pattern for x-task-id, e.g. 'TM-*'.")]
BUDGET = Annotated[list[str] | None, typer.Option("--budget", help="US dollars per hour, day, week or month, e.g. 5/day, or in total. Can be given several times.")]  # fmt: skip
SOFT = Annotated[str | None, typer.Option("--soft", help="The percentage of a budget at which a warning is sent. Default: 80.")]  # fmt: skip
RPM = Annotated[str | None, typer.Option("--rpm", help="Requests a minute, e.g. 60.")]
TPM = Annotated[str | None, typer.Option("--tpm", help="Tokens a minute, e.g. 100k.")]
PARALLEL = Annotated[str | None, typer.Option("--parallel", help="Open requests at a time.")]
EXPIRES = Annotated[str | None, typer.Option("--expires", help="When it ends: 12h, 30d, 2026-12-31. Default: never.")]


@command("create", "lm key create coder --team core --budget 5/day --rpm 60", key_app)
def key_create(
    context: Context, name: NAME, agent: AGENT = None, team: TEAM = None, models: MODELS = None, tiers: TIERS = None,
    routes: ROUTES = None, tasks: TASKS = None, budget: BUDGET = None, soft: SOFT = None, rpm: RPM = None, tpm: TPM = None,
    parallel: PARALLEL = None, expires: EXPIRES = None,
) -> Result:  # fmt: skip
    """Make a key with limits. It is valid immediately, and its secret is printed only here."""
    options = options_of(agent, team, models, tiers, routes, tasks, budget, soft, rpm, tpm, parallel)
    return _made("key create", flow.create(context.project, name, options, expires))


@command("edit", "lm key edit coder --budget 10/day --rpm none", key_app)
def key_edit(
    context: Context, name: NAME, agent: AGENT = None, team: TEAM = None, models: MODELS = None, tiers: TIERS = None,
    routes: ROUTES = None, tasks: TASKS = None, budget: BUDGET = None, soft: SOFT = None, rpm: RPM = None, tpm: TPM = None,
    parallel: PARALLEL = None, expires: EXPIRES = None,
    more: Annotated[str | None, typer.Option("--raise", help="Add US dollars to each budget for a time; needs --until.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="When the raise ends: 12h, 7d, 2026-12-31.")] = None,
) -> Result:  # fmt: skip
    """Change a key's limits, immediately and without a new secret. 'none' takes a limit away."""
    options = options_of(agent, team, models, tiers, routes, tasks, budget, soft, rpm, tpm, parallel)
    if (more is None) != (until is None):
        raise UsageError("--raise and --until belong together", "for example: --raise 10 --until 2026-12-31")
    row: dict[str, Any] = {}
    if expires is not None or more is None or any(value is not None for value in options.values()):
        row = flow.edit(context.project, name, options, expires)
    if more is not None and until is not None:
        row = flow.raise_budgets(context.project, name, more, until)
    return Result("key edit", {"key": row}, (f"{name}: {limits_text(row)}",))


@command("list", "lm key list", key_app)
def key_list(context: Context) -> Result:
    """List the keys with their limits and their spending."""
    rows = flow.keys(context.project)
    if not rows:
        return Result("key list", {"keys": rows}, ("There are no keys. Make one with: lm key create NAME",))
    header = ("NAME", "STATE", "AGENT", "TEAM", "SPENT", "EXPIRES", "LIMITS")
    return Result("key list", {"keys": rows}, table(header, [_cells(row) for row in rows]))


@command("show", "lm key show coder", key_app)
def key_show(context: Context, name: _MAYBE = None) -> Result:
    """Print the key that the operator's clients send. With NAME: the limits of that key and what it has used."""
    if name is None:
        key = context.project.settings().master_key
        return Result("key show", {"key": key}, (key,))
    row = flow.key(context.project, name)
    lines = [f"{name}: {row['state']}, made {_time(row['created_at'])}, expires {_time(row['expires_at'])}"]
    lines += [f"  limits: {limits_text(row)}"]
    lines += [f"  {b['period']}: {usd(b['spent_usd'])} of {usd(b['limit_usd'])}, {usd(b['reserved_usd'])} reserved" for b in row["budgets"]]  # fmt: skip
    return Result("key show", {"key": row}, tuple(lines))


@command("revoke", "lm key revoke coder", key_app)
def key_revoke(context: Context, name: NAME) -> Result:
    """Make a key invalid. Every worker refuses it within a second; requests that run are finished."""
    row = flow.revoke(context.project, name)
    return Result("key revoke", {"key": row}, (f"The key '{name}' is revoked.",))


@command("rotate", "lm key rotate coder --keep-old 1h", key_app)
def key_rotate(
    context: Context,
    name: _MAYBE = None,
    keep_old: Annotated[str | None, typer.Option("--keep-old", help="How long the old secret stays valid, e.g. 1h. Default: it ends immediately.")] = None,
) -> Result:  # fmt: skip
    """Make a new secret for a key. Without NAME: write a strong master key into .env, used from the next `lm up` on."""
    if name is not None:
        return _made("key rotate", flow.rotate(context.project, name, keep_old))
    if keep_old is not None:
        raise UsageError("there is one master key at a time", "--keep-old needs the name of a key")
    settings_edit.rotate_key(context.project)
    lines = (
        "A new LITELLM_MASTER_KEY is in .env.",
        *settings_edit.overridden("LITELLM_MASTER_KEY"),
        "Next: lm up (applies it); lm key show (prints it for your clients)",
    )
    return Result("key rotate", {"file": str(context.project.env_file)}, lines)


@command("audit", "lm audit --since 30d")
def audit(
    context: Context,
    since: SINCE = "30d",
    key: Annotated[str | None, typer.Option("--key", help="Only this key.", autocompletion=key_names)] = None,
    limit: LIMIT = 50,
) -> Result:
    """Show who made, changed, revoked or rotated a key, and when."""
    rows = flow.audit(context.project, time.time() - seconds(since), key, limit)
    if not rows:
        return Result("audit", {"changes": rows}, (f"No changes of keys in the last {since}.",))
    shown = [(_time(r["at"]), r["actor"], r["action"], r["key"], _detail(r["detail"])) for r in rows]
    return Result("audit", {"changes": rows}, table(("TIME", "WHO", "ACTION", "KEY", "DETAIL"), shown))


def options_of(
    agent: str | None, team: str | None, models: str | None, tiers: str | None, routes: str | None, tasks: str | None,
    budget: list[str] | None, soft: str | None, rpm: str | None, tpm: str | None, parallel: str | None,
) -> flow.Options:  # fmt: skip
    """Return the options that state limits, by name."""
    return {
        "agent": agent, "team": team, "models": models, "tiers": tiers, "routes": routes, "tasks": tasks, "budget": budget or None,
        "soft": soft, "rpm": rpm, "tpm": tpm, "parallel": parallel,
    }  # fmt: skip


def limits_text(row: dict[str, Any]) -> str:
    """Return the limits of a key in one line."""
    limits = dict(row["limits"])
    budgets = [f"{usd(amount)}/{period}" for period, amount in limits.pop("budgets", {}).items()]
    until = limits.pop("raise_until", None)
    raised = [f"{usd(limits.pop('raise_usd', 0.0))} more until {_time(until)}"] if until and until > time.time() else []
    rest = [
        f"{name} {_value(name, value)}" for name, value in limits.items() if name not in ("agent", "team", "raise_usd")
    ]
    return ", ".join([*budgets, *raised, *rest]) or "none"


def _made(name: str, made: flow.Made) -> Result:
    key = made.key
    remark = f"this is the key '{key['name']}', and it cannot be shown again. Limits: {limits_text(key)}"
    return Result(name, {"key": key, "secret": made.secret}, (made.secret,), (remark,))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    budget = row["budgets"][0] if row["budgets"] else None
    spent = f"{usd(budget['spent_usd'])} of {usd(budget['limit_usd'])} a {budget['period']}" if budget else "-"
    limits = row["limits"]
    return (
        row["name"], row["state"], limits.get("agent") or row["name"], limits.get("team") or "-", spent.replace("a total", "in total"),
        _time(row["expires_at"]), limits_text(row),
    )  # fmt: skip


def _value(name: str, value: Any) -> str:
    if name == "tiers":
        value = [GROUP_OF_TIER[tier] for tier in value]
    return (
        ",".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _time(when: float | None) -> str:
    return "never" if when is None else datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")


def _detail(detail: dict[str, Any]) -> str:
    """Return what a change has changed; --json has all of it."""
    told = [f"expires {_time(detail['expires_at'])}"] if detail.get("expires_at") else []
    if "old_valid_until" in detail:
        told.append(f"the old secret ends {_time(detail['old_valid_until'])}")
    before, after = detail.get("before", {}), detail.get("after", detail.get("limits", {}))
    for name in [name for name in {**before, **after} if before.get(name) != after.get(name)]:
        told.append(f"{name}: {json.dumps(before.get(name))} → {json.dumps(after.get(name))}" if "before" in detail else f"{name}: {json.dumps(after[name])}")  # fmt: skip
    return ", ".join(told) or "-"
