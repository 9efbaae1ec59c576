"""Find what could keep a gateway from working. Changes nothing."""

from lmstack import files
from lmstack.errors import LmError
from lmstack.operate import checks
from lmstack.operate.check_receivers import alerts, traces
from lmstack.operate.checks import FAIL, OK, WARN, Finding
from lmstack.operate.planning import Planned, ask, gateway_health, ledger_status, planned
from lmstack.operate.private_files import private_files
from lmstack.operate.validation import problems_of_project
from lmstack.releases.allowed import version_objection
from lmstack.releases.pins import LITELLM_VERSION
from lmstack.releases.proven import is_proven, proven
from lmstack.runtime import releases
from lmstack.runtime.base import Address, State, load_state
from lmstack.runtime.choose import current_runtime, machine
from lmstack.runtime.ports import check_port_free
from lmstack.stack.health import missing_parts, ollama_answers
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project


def diagnose(project: Project, deep: bool) -> list[Finding]:
    """Run every check. When `lm validate` finds an error, later checks cannot run."""
    found = [checks.python(), checks.env_file(project), *private_files(project), checks.folder(project)]
    problems = problems_of_project(project)
    found += [Finding("settings", WARN, str(p), "it works, but it may cost money or change without notice", f"edit {p.where}") for p in problems if p.warning]  # fmt: skip
    errors = [p for p in problems if not p.warning]
    if errors:
        return [*found, *(Finding("settings", FAIL, str(p), "the gateway cannot start", f"edit {p.where}, then: lm validate") for p in errors)]  # fmt: skip
    wanted, state = planned(project, {}), load_state(project)
    found.append(Finding("runtime", OK, f"{wanted.runtime.name}: {wanted.why}"))
    found += [_engine(wanted.runtime.name), _release(project, wanted.plan, wanted.runtime.name)]
    found += [] if state else [_port(wanted.plan)]
    found += [checks.image(wanted.plan.settings), checks.memory(wanted.plan, machine()[1])]
    found += [*checks.models(wanted.plan), *_providers(project, wanted, deep)]
    found.append(checks.taskmaster(wanted.plan.settings))
    found += [alerts(wanted.plan.rules.alerts, wanted.plan.settings), traces(wanted.plan.settings)]
    if not project.is_stack:
        return [*found, checks.no_stack(project)]
    return [*found, _ledger(project), _drift(project, wanted, state), *_gateway(project, state)]


def _providers(project: Project, wanted: Planned, deep: bool) -> list[Finding]:
    """Check keys, providers, the clock, and Ollama."""
    catalog, settings = project.catalog(), wanted.plan.settings
    found = checks.keys(settings, catalog.providers.values())
    leads: list[float | None] = []
    for provider in checks.configured(catalog, settings):
        answers, lead = checks.provider_answers(provider, settings, deep)
        found, leads = [*found, *answers], [*leads, lead]
    ollama = checks.ollama(settings, wanted.runtime.name, ollama_answers)
    return [*found, checks.clock(leads), *([ollama] if ollama else [])]


def _engine(runtime: str) -> Finding:
    """Check the Docker client, engine and compose. Only the Docker runtime needs them."""
    from lmstack.runtime.engine import engine_summary

    try:
        return Finding("docker", OK, engine_summary())
    except LmError as error:
        if runtime != "docker":
            return Finding("docker", OK, f"not used: {error}")
        return Finding("docker", FAIL, str(error), "the Docker runtime cannot start", error.hint)


def _release(project: Project, plan: Plan, runtime: str) -> Finding:
    """Check the LiteLLM release that would run."""
    version = plan.settings.version
    objection = version_objection(version)
    if objection:
        return Finding("litellm", FAIL, f"{version} {objection}", "it must not run", f"lm upgrade --to {LITELLM_VERSION}")  # fmt: skip
    if runtime == "local":
        try:
            releases.command(project, version)
        except LmError as error:
            return Finding("litellm", FAIL, str(error), "the gateway cannot start", error.hint)
    tested = "" if is_proven(version) else f"; it is not proven, this lmstack was tested with {', '.join(proven())}"
    return Finding("litellm", OK, f"{version}{tested}")


def _port(plan: Plan) -> Finding:
    try:
        check_port_free(Address(plan.settings.host, plan.settings.port))
    except LmError as error:
        return Finding("port", FAIL, str(error), "the gateway cannot listen there", error.hint)
    return Finding("port", OK, f"{plan.settings.port} is free")


def _ledger(project: Project) -> Finding:
    status = ledger_status(current_runtime(project))
    dead = len(ask(project, "events", state="dead", limit=1000)) if status["status"] == "ok" else 0
    return checks.ledger(status, dead)


def _drift(project: Project, wanted: Planned, state: State | None) -> Finding:
    if state is None and wanted.runtime.name == "local":
        return Finding("drift", OK, "nothing is started; lm up writes litellm-config.yaml")
    stale = files.read(project.config_file) != wanted.config
    return checks.drift(stale, state.digest if state else None, wanted.digest)


def _gateway(project: Project, state: State | None) -> list[Finding]:
    """Check the gateway that was started here; nothing when none was."""
    if state is None:
        return []
    status = gateway_health(project)["status"]
    if status != "unhealthy":
        return [Finding("gateway", OK, f"{status} at {state.url}"), *_missing_parts(state.url)]
    return [Finding("gateway", FAIL, f"unhealthy at {state.url}", "clients get no answer", "lm logs, then: lm restart")]  # fmt: skip


def _missing_parts(url: str) -> list[Finding]:
    """Report the private names of LiteLLM that the running gateway lacks, each with what it does without."""
    fix = f"nothing must be done; lm upgrade --to {LITELLM_VERSION} has all of them"
    return [Finding("litellm parts", WARN, f"this release has no {part.get('name')}", str(part.get("without")), fix) for part in missing_parts(url)]  # fmt: skip
