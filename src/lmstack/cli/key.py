"""key, audit: the operator's key, and a key for each agent."""

import time
from datetime import datetime
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, app, command
from lmstack.cli.options import LIMIT, SINCE, key_names
from lmstack.errors import UsageError
from lmstack.keys import text
from lmstack.keys.key import VIEWER
from lmstack.keys.orders import Options
from lmstack.operate import keys as flow
from lmstack.operate import settings_edit
from lmstack.operate.planning import seconds
from lmstack.result import Result, table, usd

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
ROLE = Annotated[str | None, typer.Option("--role", help="viewer: the key opens the page at /dashboard to read it, and calls nothing. Default: agent.")]  # fmt: skip
EXPIRES = Annotated[str | None, typer.Option("--expires", help="When it ends: 12h, 30d, 2026-12-31. Default: never.")]


@command("create", "lm key create coder --team core --budget 5/day --rpm 60", key_app)
def key_create(
    context: Context, name: NAME, agent: AGENT = None, team: TEAM = None, models: MODELS = None, tiers: TIERS = None,
    routes: ROUTES = None, tasks: TASKS = None, budget: BUDGET = None, soft: SOFT = None, rpm: RPM = None, tpm: TPM = None,
    parallel: PARALLEL = None, role: ROLE = None, expires: EXPIRES = None,
) -> Result:  # fmt: skip
    """Make a key with limits. It is valid immediately, and its secret is printed only here."""
    options = options_of(agent, team, models, tiers, routes, tasks, budget, soft, rpm, tpm, parallel, role)
    return _made("key create", flow.create(context.project, name, options, expires))


@command("edit", "lm key edit coder --budget 10/day --rpm none", key_app)
def key_edit(
    context: Context, name: NAME, agent: AGENT = None, team: TEAM = None, models: MODELS = None, tiers: TIERS = None,
    routes: ROUTES = None, tasks: TASKS = None, budget: BUDGET = None, soft: SOFT = None, rpm: RPM = None, tpm: TPM = None,
    parallel: PARALLEL = None, role: ROLE = None, expires: EXPIRES = None,
    more: Annotated[str | None, typer.Option("--raise", help="Add US dollars to each budget for a time; needs --until.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="When the raise ends: 12h, 7d, 2026-12-31.")] = None,
) -> Result:  # fmt: skip
    """Change a key's limits, immediately and without a new secret. 'none' takes a limit away."""
    options = options_of(agent, team, models, tiers, routes, tasks, budget, soft, rpm, tpm, parallel, role)
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
    header = ("NAME", "STATE", "AGENT", "TEAM", "SPENT", "LAST USED", "EXPIRES", "LIMITS")
    return Result("key list", {"keys": rows}, table(header, [_cells(row) for row in rows]))


@command("show", "lm key show coder", key_app)
def key_show(context: Context, name: _MAYBE = None) -> Result:
    """Print the key that the operator's clients send. With NAME: the limits of that key and what it has used."""
    if name is None:
        key = context.project.settings().master_key
        return Result("key show", {"key": key}, (key,))
    row = flow.key(context.project, name)
    lines = [
        f"{name}: {row['state']}, made {_time(row['created_at'])}, expires {_time(row['expires_at'])}, last used {_time(row['last_used_at'])}"
    ]
    lines += [f"  limits: {limits_text(row)}"]
    lines += [f"  {b['period']}: {usd(b['spent_usd'])} of {usd(b['limit_usd'])}, {usd(b['reserved_usd'])} reserved" for b in row["budgets"]]  # fmt: skip
    lines += [f"  {rate}: {_used(one['used'])} of {one['limit']}" for rate, one in row["rates"].items() if one["limit"] is not None]  # fmt: skip
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
    shown = [(_time(r["at"]), r["actor"], r["action"], r["key"], text.detail_text(r["detail"], _time)) for r in rows]
    return Result("audit", {"changes": rows}, table(("TIME", "WHO", "ACTION", "KEY", "DETAIL"), shown))


def options_of(
    agent: str | None, team: str | None, models: str | None, tiers: str | None, routes: str | None, tasks: str | None,
    budget: list[str] | None, soft: str | None, rpm: str | None, tpm: str | None, parallel: str | None, role: str | None = None,
) -> Options:  # fmt: skip
    """Return the options that state limits, by name."""
    return {
        "agent": agent, "team": team, "models": models, "tiers": tiers, "routes": routes, "tasks": tasks, "budget": budget or None,
        "soft": soft, "rpm": rpm, "tpm": tpm, "parallel": parallel, "role": role,
    }  # fmt: skip


def limits_text(row: dict[str, Any]) -> str:
    """Return the limits of a key in one line."""
    return text.limits_text(row["limits"], time.time(), usd, _time)


def _made(name: str, made: flow.Made) -> Result:
    key = made.key
    remark = f"this is the key '{key['name']}', and it cannot be shown again. Limits: {limits_text(key)}"
    return Result(name, {"key": key, "secret": made.secret}, (made.secret,), (remark,))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    budget = row["budgets"][0] if row["budgets"] else None
    spent = f"{usd(budget['spent_usd'])} of {usd(budget['limit_usd'])} a {budget['period']}" if budget else "-"
    limits = row["limits"]
    return (
        row["name"], row["state"], "-" if row["role"] == VIEWER else limits.get("agent") or row["name"], limits.get("team") or "-",
        spent.replace("a total", "in total"), _time(row["last_used_at"]), _time(row["expires_at"]), limits_text(row),
    )  # fmt: skip


def _used(count: int | None) -> str:
    return "unknown" if count is None else f"{count} in use"


def _time(when: float | None) -> str:
    return "never" if when is None else datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")
