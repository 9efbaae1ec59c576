"""init, render, validate, models, config, key, env, version: what will run, before it runs."""

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lmstack import __version__, files
from lmstack.catalog.models import PRICE_SOURCE, Catalog, Model, parse_catalog
from lmstack.catalog.prices import differences, load_price_map
from lmstack.cli.app import VERSION_LINE, Context, app, command
from lmstack.cli.options import RUNTIMES, OneOf
from lmstack.config.envfile import parse_env, set_line, unset_line
from lmstack.config.settings import BY_NAME, KINDS, SETTINGS, Settings, env_example, parse_settings
from lmstack.config.validate import check_file
from lmstack.config.yamlfile import did_you_mean
from lmstack.errors import ConfigError, Exit, LmError, Problem, UsageError, invalid
from lmstack.operate.planning import planned, runtime_flags
from lmstack.releases import pins
from lmstack.result import Result, table
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project, shipped_catalog, shipped_config
from lmstack.stack.render import diff_config

config_app = typer.Typer(name="config", help="Show and change settings.", no_args_is_help=True, rich_markup_mode=None)
key_app = typer.Typer(name="key", help="The key that clients send.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app)
app.add_typer(key_app)

_NAME = Annotated[str, typer.Argument(help="The variable, e.g. LITELLM_PORT.")]


@command("init", "lm init --dir my-gateway")
def init(
    context: Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; keys can be set later.")] = False,
) -> Result:
    """Lay a stack down in this folder: compose file, Dockerfile, callbacks, .env. Existing files are kept. On a terminal
    it asks for keys, port and TaskMaster's address; nothing is written before the last answer."""
    root = context.project.root
    env = _answered(context) if context.may_ask and not yes else files.read(context.project.env_file)
    made = lay_down(context.project, env)
    keys = False
    with contextlib.suppress(ConfigError):  # what is wrong in it is for the next command to say
        keys = any(context.project.settings().get(p.key) for p in context.project.catalog().providers.values() if p.key)
    lines = (
        f"Stack in {root}: {', '.join(_folded(made)) or 'everything was there already'}",
        "Next: lm up" if keys else "Next: lm config set OPENAI_API_KEY (or another provider's), then: lm up",
    )
    return Result("init", {"root": str(root), "created": made, "has_key": keys}, lines)


def _folded(names: list[str]) -> list[str]:
    """Files of a folder as the folder."""
    return list(dict.fromkeys(f"{name.split('/')[0]}/" if "/" in name else name for name in names))


@command("render", "lm render --diff")
def render(
    context: Context,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 when the file is stale.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; show what would change.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Write nothing; print the text.")] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="The text that the repository carries: every provider.")
    ] = False,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Where the proxy runs."), OneOf(RUNTIMES)] = None,
) -> Result:
    """Write litellm-config.yaml from .env, models.yaml and the catalog. It never holds a key."""
    plan = None if shipped else planned(context.project, runtime_flags(runtime, False, None, None))
    text, messages = (plan.config, plan.plan.messages) if plan else (shipped_config(), ())
    file = context.project.config_file
    if stdout:
        return Result("render", {"text": text}, (text.rstrip("\n"),), messages)
    changes = diff_config(files.read(file) or "", text)
    data = {"file": str(file), "changed": bool(changes), "diff": changes if diff else None}
    if check or diff:
        headline = f"{file.name} is stale; run 'lm render' (or 'lm up')" if changes else f"{file.name} is up to date"
        shown = (changes.rstrip("\n"),) if diff and changes else ()
        return Result("render", data, (*shown, headline), messages, Exit.CONFIG if changes else Exit.OK)
    files.write(file, text)
    return Result("render", data, (f"{file}: {'written' if changes else 'already up to date'}",), messages)


@command("validate", "lm validate other-config.yaml")
def validate(
    context: Context,
    file: Annotated[
        Path | None, typer.Argument(help="Any LiteLLM config, compose file or Dockerfile; default: this stack's files.")
    ] = None,
) -> Result:
    """Check .env, models.yaml, the LiteLLM config, compose file and Dockerfile, strictly and offline. All problems at
    once; exit code 3. What works, but costs money or floats, is a warning."""
    problems = _problems_of_file(context.project, file) if file else problems_of_project(context.project)
    if any(not p.warning for p in problems):
        raise invalid(problems)
    checked = [str(file)] if file else [p.name for p in _checked(context.project) if p.exists()]
    listed = [{"where": p.where, "what": p.what, "fix": p.fix} for p in problems]
    lines = (f"OK: {', '.join(checked) or 'defaults'}", *(f"warning: {p}" for p in problems))
    return Result("validate", {"checked": checked, "problems": [], "warnings": listed}, lines)


@command("models", "lm models --check")
def models(
    context: Context,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with LiteLLM's price map; exit 1 when they differ.")
    ] = False,
) -> Result:
    """List every model: who serves it, tier, prices, context, abilities, lifecycle, and whether a key is there."""
    catalog = context.project.catalog()
    if check:
        return _checked_models(differences(catalog, load_price_map()))
    settings = context.project.settings(None, catalog)
    rows = [_model_row(catalog, model, settings) for model in catalog.models.values()]
    rows.sort(
        key=lambda r: (r["tier"] or 9, r["input_usd_per_million"] is None, r["input_usd_per_million"] or 0, r["name"])
    )
    shown = [
        (
            r["name"], str(r["tier"] or "-"), _price(r["input_usd_per_million"]), _price(r["output_usd_per_million"]), str(r["context"] or "?"),
            "?" if r["can"] is None else " ".join(r["can"]) or "-", _remark(r),
        )
        for r in rows
    ]  # fmt: skip
    lines = table(("MODEL", "TIER", "IN $/M", "OUT $/M", "CONTEXT", "CAN", "STATUS"), shown, frozenset({1, 2, 3, 4}))
    return Result("models", {"models": rows}, lines)


@command("show", "lm config show", config_app)
def config_show(context: Context) -> Result:
    """Every setting, its value (secrets as ***) and where it comes from."""
    settings = context.project.settings()
    secret = {s.name for s in SETTINGS if s.secret}
    rows = []
    for name, value in {**settings.values, **settings.extra}.items():
        hidden = value.text and (name in secret or name not in settings.values)
        rows.append(
            {"name": name, "value": "***" if hidden else value.text, "source": value.source if value.text else "unset"}
        )
    lines = table(("NAME", "VALUE", "SOURCE"), [(r["name"], r["value"], r["source"]) for r in rows])
    return Result("config show", {"settings": rows}, lines, settings.notes)


@command("get", "lm config get LITELLM_PORT", config_app)
def config_get(context: Context, name: _NAME) -> Result:
    """Print one setting's value, as it counts now."""
    settings = context.project.settings()
    _known(name, settings)
    value = settings.values.get(name) or settings.extra.get(name)
    text, source = (value.text, value.source) if value and value.text else ("", "unset")
    return Result("config get", {"name": name, "value": text, "source": source}, (text,))


@command("set", "lm config set LITELLM_PORT 4100", config_app)
def config_set(
    context: Context,
    name: _NAME,
    value: Annotated[str | None, typer.Argument(help="Left out: read from standard input, for keys.")] = None,
) -> Result:
    """Write one setting into .env (mode 600). Everything else in the file stays as it is; a wrong value is refused."""
    new = _typed(name) if value is None else value
    return _edit_env(context, "config set", name, lambda text: set_line(text, name, new))


@command("unset", "lm config unset OPENAI_API_BASE", config_app)
def config_unset(context: Context, name: _NAME) -> Result:
    """Take one setting out of .env."""
    return _edit_env(context, "config unset", name, lambda text: unset_line(text, name))


@command("show", "lm key show", key_app)
def key_show(context: Context) -> Result:
    """Print the key that clients must send."""
    key = context.project.settings().master_key
    return Result("key show", {"key": key}, (key,))


@command("rotate", "lm key rotate", key_app)
def key_rotate(context: Context) -> Result:
    """Make a strong key and write it into .env (mode 600); it counts from the next `lm up`."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    text = files.read(context.project.env_file)
    files.write(
        context.project.env_file, set_line(env_example() if text is None else text, "LITELLM_MASTER_KEY", key), 0o600
    )
    lines = (
        "A new LITELLM_MASTER_KEY is in .env.",
        "Next: lm up (applies it); lm key show (prints it for your clients)",
    )
    return Result("key rotate", {"file": str(context.project.env_file)}, lines)


@command("version", "lm version --json")
def version(context: Context) -> Result:
    """Versions of lmstack and of the LiteLLM that it pins."""
    data = {"lmstack": __version__, "litellm": pins.LITELLM_VERSION, "image": pins.IMAGE}
    return Result("version", data, (VERSION_LINE,))


def _answered(context: Context) -> str:
    """The text of .env as the user's answers make it; what is set already is only asked for when it is wanted."""
    text = files.read(context.project.env_file) or env_example()
    catalog = context.project.catalog()
    here = parse_env(text, ".env")
    print(
        f"A gateway in {context.project.root}. Enter keeps what stands in brackets; keys are not shown.",
        file=sys.stderr,
    )
    for provider in catalog.providers.values():
        if provider.key and provider.name in ("openai", "anthropic", "google"):
            there = bool(here.get(provider.key) and here[provider.key].value)
            text = _asked(
                text, catalog, provider.key, f"{provider.title} key [{'keep' if there else 'none'}]", hide=True
            )
    port = here["LITELLM_PORT"].value if "LITELLM_PORT" in here else BY_NAME["LITELLM_PORT"].default
    text = _asked(text, catalog, "LITELLM_PORT", f"Port [{port}]")
    url = here["TASKMASTER_API_URL"].value if "TASKMASTER_API_URL" in here else ""
    return _asked(text, catalog, "TASKMASTER_API_URL", f"TaskMaster's address [{url or 'none'}]")


def _asked(text: str, catalog: Catalog, name: str, question: str, hide: bool = False) -> str:
    """Ask until the answer is valid; an empty one changes nothing."""
    while True:
        answer = typer.prompt(question, default="", show_default=False, hide_input=hide, err=True).strip()
        if not answer:
            return text
        wrong = KINDS[BY_NAME[name].kind](answer)
        if not wrong:
            changed = set_line(text, name, answer)
            parse_settings(parse_env(changed, ".env"), {}, None, catalog.variables)
            return changed
        print(f"  {name} {wrong if not hide else wrong.split(', not ')[0]}", file=sys.stderr)


def _typed(name: str) -> str:
    """A value from standard input; UsageError when there is none: an empty value has to be asked for."""
    if sys.stdin.isatty():
        return str(typer.prompt(f"{name} (not shown)", hide_input=True, err=True)).strip()
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise UsageError(
            f"no value for {name} came on standard input", f"give one, or take it out: lm config unset {name}"
        )
    return given


def _known(name: str, settings: Settings) -> None:
    names = [*settings.values, *settings.extra]
    if name not in names:
        raise UsageError(f"there is no setting '{name}'", did_you_mean(name, names) or "see them with: lm config show")


def _edit_env(context: Context, command_name: str, name: str, edit: Callable[[str], str]) -> Result:
    """Change .env only if what comes out is valid."""
    project = context.project
    catalog = project.catalog()
    _known(name, project.settings(None, catalog))
    old = files.read(project.env_file)
    new = edit(env_example() if old is None else old)
    parse_settings(parse_env(new, ".env"), {}, None, catalog.variables)
    changed = new != old and files.write(project.env_file, new, 0o600)
    lines = [f".env: {'written' if changed else 'unchanged'}"]
    if os.environ.get(name):
        lines.append(f"But the environment variable {name} is set, and counts before .env.")
    if changed:
        lines.append("Next: lm up (applies it)")
    return Result(command_name, {"file": str(project.env_file), "name": name, "changed": bool(changed)}, tuple(lines))


def _checked(project: Project) -> tuple[Path, ...]:
    return (
        project.env_file, project.models_file, project.config_file, project.compose_file, project.root / "Dockerfile",
    )  # fmt: skip


def problems_of_project(project: Project) -> list[Problem]:
    """Everything that `lm validate` finds in a stack's own files."""
    problems: list[Problem] = []
    catalog = None
    try:
        catalog = project.catalog()
    except ConfigError as error:
        problems += error.problems
    try:
        project.settings(None, catalog or parse_catalog(shipped_catalog()))
    except ConfigError as error:
        problems += error.problems
    # No environment for our own config: the shipped one refers to every provider's key, and serves those that are set.
    for path in _checked(project)[2:]:
        text = files.read(path)
        problems += check_file(text, path.name) if text is not None else []
    return problems


def _problems_of_file(project: Project, file: Path) -> list[Problem]:
    text = files.read(file)
    if text is None:
        raise LmError(f"there is no file {file}", "check the path")
    known = {name: entry.value for name, entry in project.env_entries().items()}
    return check_file(text, str(file), {**known, **os.environ})


def _model_row(catalog: Catalog, model: Model, settings: Settings) -> dict[str, Any]:
    provider, real = catalog.providers[model.provider], catalog.resolve(model)
    need = None if provider.keyless else provider.key
    priced = "models.yaml" if real.own_price else PRICE_SOURCE if real.priced and not real.free else None
    return {
        "name": model.name, "provider": provider.name, "model": real.model, "mode": real.mode,
        "tier": model.tier if real.mode == "chat" else None,
        "input_usd_per_million": real.input, "output_usd_per_million": real.output, "price_source": priced,
        "context": real.context, "can": None if real.can is None else list(real.can),
        "lifecycle": model.lifecycle, "deprecated": model.deprecated, "retired": model.retired, "successor": model.successor,
        "needs": need if need and not settings.get(need) else None,
    }  # fmt: skip


def _checked_models(found: list[dict[str, Any]]) -> Result:
    shown = [(d["model"], d["field"], str(d["catalog"]), str(d["litellm"])) for d in found]
    lines = (
        table(("MODEL", "FIELD", "CATALOG", "LITELLM"), shown)
        if found
        else (f"The catalog agrees with the price map of LiteLLM {pins.LITELLM_VERSION}.",)
    )
    return Result("models", {"differences": found}, lines, exit=Exit.FAILED if found else Exit.OK)


def _price(amount: object) -> str:
    return "?" if amount is None else "free" if amount == 0 else f"{amount:g}"


def _remark(row: Mapping[str, object]) -> str:
    parts = [f"retired {row['retired']}, served by {row['successor']}"] if row["successor"] else []
    if row["deprecated"]:
        parts.append(f"ends {row['deprecated']}")
    if row["needs"]:
        parts.append(f"set {row['needs']}")
    if row["provider"] == "ollama":
        parts.append("served when Ollama answers")
    if row["provider"] == "embedded":
        parts.append("built-in toy, served when nothing else is")
    return "; ".join(parts) or "ready"
