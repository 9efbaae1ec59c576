"""doctor, test: what is wrong, and does each model answer."""

import contextlib
import json
import queue
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.cli.config import config_show
from lmstack.cli.options import model_names
from lmstack.config.spelling import did_you_mean
from lmstack.errors import Exit, LmError, UnhealthyError, UsageError
from lmstack.ledger.backup import add
from lmstack.ledger.redact import redacted, secret_values
from lmstack.operate import archive
from lmstack.operate import diagnose as checks
from lmstack.operate.diagnose import FAIL, OK, WARN, Finding
from lmstack.operate.planning import ask, gateway_health, ledger_status, planned, service_rows
from lmstack.operate.validation import problems_of_project
from lmstack.releases.allowed import version_objection
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.result import Result, naming_folder, table, usd
from lmstack.runtime import releases
from lmstack.runtime.base import load_state
from lmstack.runtime.choose import current_runtime, machine
from lmstack.runtime.processes import check_port_free
from lmstack.stack.health import client, ollama_answers
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

TEST_SECONDS, PARALLEL = 60.0, 8


@command("doctor", "lm doctor --deep")
def doctor(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also try each provider's key; lists models, costs nothing.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write a bundle for a bug report, keys taken out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --report replace a file.")] = False,
) -> Result:  # fmt: skip
    """Look for what could keep the gateway from working; each finding says what mends it. Exit code 5 when any fails."""
    target = archive.new_file(report, force) if report else None
    found = [replace(f, fix=naming_folder(f.fix, context.dir_flag)) for f in _findings(context, deep)]
    shown = [(f.status, f.name, f.what) for f in found]
    lines = list(table(("", "CHECK", "FOUND"), shown))
    for f in (f for f in found if f.status != OK):
        lines += ["", f"{f.name}: {f.what}", f"  why  {f.why}", f"  mend {f.fix}"]
    data: dict[str, Any] = {
        "findings": [{"name": f.name, "status": f.status, "what": f.what, "why": f.why, "fix": f.fix} for f in found],
        "report": str(report) if report else None,
    }
    if target:
        _write_report(context, target, data)
        lines += ["", f"{report}: written; look through it before you send it"]
    return Result(
        "doctor", data, tuple(lines), exit=Exit.UNHEALTHY if any(f.status == FAIL for f in found) else Exit.OK
    )


@command("test", "lm test gpt-4o-mini claude-haiku-5-5")
def try_models(
    context: Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Which names; left out: every one that is served.", autocompletion=model_names),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback", help="A drill: this model's first attempt is made to fail.", autocompletion=model_names
        ),
    ] = None,
) -> Result:
    """Ask each model for a few tokens, all at once; real calls, which cost a little. Exit code 5 when one fails."""
    plan = planned(context.project, {}).plan
    state = load_state(context.project)
    if state is None:
        raise UnhealthyError("nothing was started from this folder", "start it with: lm up")
    served = {d.name: d.model.mode for d in plan.deployments}
    wanted = [fallback] if fallback else models or list(served)
    for name in wanted:
        if name not in served and name not in plan.names:
            raise UsageError(f"'{name}' is not served", did_you_mean(name, plan.names) or "see: lm models")
    rows: list[dict[str, Any]] = []
    with _live_table(context, wanted) as show_so_far:
        for row in _side_by_side(
            wanted, lambda name: _try(state.url, plan, name, served.get(name, "chat"), bool(fallback))
        ):
            rows.append(row)
            show_so_far(rows)
    rows.sort(key=lambda r: wanted.index(r["model"]))
    shown = [
        (r["model"], "ok" if r["ok"] else "FAILED", r["served_by"] or "-", f"{r['ms']:.0f}", usd(r["cost_usd"]), r["error"] or "")
        for r in rows
    ]  # fmt: skip
    lines = table(("MODEL", "", "ANSWERED BY", "MS", "COST", "ERROR"), shown, frozenset({3, 4}))
    bad = sum(not r["ok"] for r in rows)
    return Result("test", {"models": rows, "failed": bad}, lines, exit=Exit.UNHEALTHY if bad else Exit.OK)


def _side_by_side(names: list[str], call: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results as they come. The threads are daemons: Ctrl-C must not wait for a slow model."""
    todo, done = queue.SimpleQueue[str](), queue.SimpleQueue[dict[str, Any]]()

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                done.put(call(todo.get_nowait()))

    for name in names:
        todo.put(name)
    for _ in range(min(PARALLEL, len(names))):
        threading.Thread(target=work, daemon=True).start()
    for _ in names:
        yield done.get()


@contextlib.contextmanager
def _live_table(context: Context, names: list[str]) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """On a terminal: one line per model, filled in as answers come; it gives way to the result."""
    if context.quiet or context.as_json or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    def drawn(rows: list[dict[str, Any]]) -> Table:
        known, made = {row["model"]: row for row in rows}, Table(box=None)
        for title in ("MODEL", "", "ANSWERED BY", "MS"):
            made.add_column(title)
        for name in names:
            row = known.get(name)
            cells = (
                ("…", "", "")
                if row is None
                else ("ok" if row["ok"] else "FAILED", row["served_by"] or "-", f"{row['ms']:.0f}")
            )
            made.add_row(name, *cells)
        return made

    with Live(drawn([]), console=Console(stderr=True), transient=True) as live:
        yield lambda rows: live.update(drawn(rows), refresh=True)


def _try(url: str, plan: Plan, name: str, mode: str, drill: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "Say ok."}], "max_tokens": 16}
    if mode == "embedding":
        body = {"model": name, "input": "ok"}
    headers = {"authorization": f"Bearer {plan.settings.master_key}", "x-agent-id": "lm-test"}
    headers |= {"x-lm-drill": "1"} if drill else {"x-lm-no-fallback": "1"}
    path = "/v1/embeddings" if mode == "embedding" else "/v1/chat/completions"
    began = time.perf_counter()
    row: dict[str, Any] = {"model": name, "ok": False, "served_by": None, "ms": 0.0, "cost_usd": None, "error": None}
    try:
        answer = client().post(url + path, json=body, headers=headers, timeout=TEST_SECONDS)
    except httpx.HTTPError as error:
        row["error"] = type(error).__name__
    else:
        cost = answer.headers.get("x-lm-cost", "unknown")
        row |= {"ok": answer.status_code == 200, "served_by": answer.headers.get("x-lm-model")}
        row["cost_usd"] = None if cost == "unknown" else float(cost)
        if answer.status_code != 200:
            row["error"] = f"{answer.status_code} {_message(answer)}"
    return row | {"ms": (time.perf_counter() - began) * 1000}


def _message(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error).replace("\n", " ")[:200]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200].replace("\n", " ")


def _findings(context: Context, deep: bool) -> list[Finding]:
    project = context.project
    found = [checks.python(), checks.env_file(project), checks.folder(project)]
    problems = problems_of_project(project)
    found += [Finding("settings", WARN, str(p), "it works, but costs money or changes unseen", f"edit {p.where}") for p in problems if p.warning]  # fmt: skip
    problems = [p for p in problems if not p.warning]
    if problems:
        return [*found, *(Finding("settings", FAIL, str(p), "nothing starts with it", f"edit {p.where}, then: lm validate") for p in problems)]  # fmt: skip
    catalog = project.catalog()
    wanted = planned(context.project, {})
    plan, settings, state = wanted.plan, wanted.plan.settings, load_state(project)
    found.append(Finding("runtime", OK, f"{wanted.runtime.name}: {wanted.why}"))
    found += [_engine(wanted.runtime.name), _release(project, plan, wanted.runtime.name)]
    if state is None:
        found.append(_port(plan))
    found += [checks.image(settings), checks.memory(plan, machine()[1]), *checks.models(plan)]
    found += checks.keys(settings, catalog.providers.values())
    leads: list[float | None] = []
    for provider in checks.configured(catalog, settings):
        answers, lead = checks.provider_answers(provider, settings, deep)
        found, leads = [*found, *answers], [*leads, lead]
    found.append(checks.clock(leads))
    local = checks.ollama(settings, wanted.runtime.name, ollama_answers)
    found += [local] if local else []
    found.append(checks.taskmaster(settings))
    status = ledger_status(current_runtime(settings, project))
    dead = len(ask(context.project, "events", state="dead", limit=1000)) if status["status"] == "ok" else 0
    found.append(checks.ledger(status, dead))
    stale = wanted.runtime.name == "docker" and files.read(project.config_file) != wanted.config
    found.append(checks.drift(stale, state.digest if state else None, wanted.digest))
    if state is not None:
        how = gateway_health(context.project)
        bad = how["status"] == "unhealthy"
        found.append(Finding("gateway", FAIL if bad else OK, f"{how['status']} at {state.url}", "clients get no answer" if bad else "", "lm logs, then: lm restart" if bad else ""))  # fmt: skip
    return found


def _engine(runtime: str) -> Finding:
    """Client, engine and compose, or what is missing of them; only the Docker runtime needs them."""
    from lmstack.runtime.compose import engine_summary

    try:
        return Finding("docker", OK, engine_summary())
    except LmError as error:
        if runtime != "docker":
            return Finding("docker", OK, f"not used: {error}")
        return Finding("docker", FAIL, str(error), "the Docker runtime cannot start", error.hint)


def _release(project: Project, plan: Plan, runtime: str) -> Finding:
    """The LiteLLM that would run."""
    version = plan.settings.version
    objection = version_objection(version)
    if objection:
        return Finding(
            "litellm", FAIL, f"{version} {objection}", "it must not run", f"lm upgrade --to {LITELLM_VERSION}"
        )
    if runtime == "local":
        try:
            releases.command(project, version)
        except LmError as error:
            return Finding("litellm", FAIL, str(error), "the gateway cannot start", error.hint)
    if version != LITELLM_VERSION:
        return Finding("litellm", OK, f"{version}; this lmstack was tested with {LITELLM_VERSION}")
    return Finding("litellm", OK, version)


def _port(plan: Plan) -> Finding:
    try:
        check_port_free(plan.settings.host, plan.settings.port)
    except LmError as error:
        return Finding("port", FAIL, str(error), "the gateway cannot listen there", error.hint)
    return Finding("port", OK, f"{plan.settings.port} is free")


def _write_report(context: Context, target: Path, data: dict[str, Any]) -> None:
    settings = context.project.settings()
    values = {name: value.text for name, value in {**settings.values, **settings.extra}.items()}
    runtime = current_runtime(settings, context.project)
    parts = {
        "doctor.json": json.dumps(data, indent=2),
        "settings.txt": "\n".join(config_show(context).lines),
        "litellm-config.yaml": files.read(context.project.config_file) or "",
        "models.yaml": files.read(context.project.models_file) or "",
        "services.json": json.dumps(service_rows(runtime.services()), indent=2),
        "log.txt": runtime.log_tail(500),
        "version.txt": f"LiteLLM {LITELLM_VERSION}\n",
    }
    with archive.written(target) as stream, tarfile.open(fileobj=stream, mode="w:gz") as bundle:
        for name, text in parts.items():
            content = redacted(text, secret_values(values)).encode(errors="replace")
            add(bundle, f"lmstack-report/{name}", content, 0o644)
