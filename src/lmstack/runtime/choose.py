"""Choose the runtime and say why: Docker when an engine answers, else a local process."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from lmstack import files
from lmstack.config.settings import Settings
from lmstack.errors import LmError
from lmstack.runtime import embedded
from lmstack.runtime.base import Address, Runtime, load_state
from lmstack.runtime.processes import processes
from lmstack.stack.plan import DEFAULT_OLLAMA, reachable_from
from lmstack.stack.project import Project


@dataclass(frozen=True, slots=True)
class Choice:
    """The name of a runtime, and why it was chosen."""

    name: str
    why: str


def choose(settings: Settings, project: Project, served: bool) -> Choice:
    """Return the runtime. ``served``: some provider has a key, or Ollama answers. Looks for an engine only if needed."""
    wanted, source = settings.get("LITELLM_RUNTIME").lower(), settings.values["LITELLM_RUNTIME"].source
    state = load_state(project)
    if wanted != "auto":
        same = source == "flag" and state is not None and state.runtime == wanted  # a restart gives no flag of its own
        return Choice(wanted, "as at the last start" if same else f"chosen by {source}")
    if state is not None:
        return Choice(state.runtime, "it runs here already")
    if not served and embedded.available():
        return Choice("local", "there is no provider key, and the built-in model runs as a local process")
    foreign = None if project.is_blank else project.foreign_compose()
    if foreign is not None:
        return Choice("local", foreign)
    from lmstack.runtime.engine import engine_problem

    problem = engine_problem()
    if problem is None:
        return Choice("docker", "a Docker engine answers")
    return Choice("local", f"Docker is not usable: {problem}")


def runtime_for(name: str, project: Project) -> Runtime:
    """Return the runtime with this name."""
    if name == "docker":
        from lmstack.runtime.compose import ComposeRuntime

        return ComposeRuntime(project)
    from lmstack.runtime.local import LocalRuntime

    return LocalRuntime(project)


def current_runtime(project: Project) -> Runtime:
    """Return the runtime of what was last started here, else the one that would be started.

    What was started can be seen and stopped while .env has errors: settings are only read when nothing was started.
    """
    state = load_state(project)
    name = state.runtime if state else _runtime_with_traces(project)
    return runtime_for(name or choose(project.settings(), project, True).name, project)


def _runtime_with_traces(project: Project) -> str | None:
    """Return the runtime that runs here without a record, else the one that wrote here last; None without any trace.

    `lm down` deletes the state. The ledger and the logs of that runtime stay, and commands must find them.
    """
    from lmstack.runtime import images

    if processes(project.root):
        return "local"
    local = max((files.written_at(path) for path in (project.ledger, *project.logs.glob("*.log"))), default=0.0)
    docker = images.recorded_at(project)
    if not local and not docker:
        return None
    if local and _has_containers(project):
        return "docker"
    return "local" if local > docker else "docker"


def _has_containers(project: Project) -> bool:
    """Return whether an engine answers and has containers of this folder. False while .env has errors."""
    from lmstack.runtime.compose_project import ComposeProject
    from lmstack.runtime.engine import engine_problem

    if project.foreign_compose() is not None or engine_problem() is not None:
        return False
    try:
        return bool(ComposeProject(project).containers())
    except LmError:
        return False


def running_runtime(project: Project) -> Runtime:
    """Return the runtime that was last started here; raise LmError when there was none."""
    state = load_state(project)
    if state is None:
        raise LmError("nothing was started from this folder", "start it with: lm up")
    return runtime_for(state.runtime, project)


def machine() -> tuple[int, int]:
    """Return the cores that this process may use, and the megabytes of memory. Neither changes while the gateway runs."""
    import psutil

    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores, psutil.virtual_memory().total // 1_000_000


def ollama_address(settings: Settings) -> str:
    """Return the address of Ollama, as seen from this machine."""
    base = settings.get("OLLAMA_API_BASE")
    return reachable_from(base, "local") if base else DEFAULT_OLLAMA


def own_address(project: Project) -> Address | None:
    """Return the address on which the gateway of this folder listens, None when it does not run."""
    state = load_state(project)
    if state is None or not any(s.pid for s in runtime_for(state.runtime, project).services()):
        return None
    url = urlsplit(state.url)
    # The URL has "localhost" for several addresses. A state of an older lmstack has no settings.
    return Address(state.settings.get("LITELLM_HOST") or url.hostname or "", url.port or 0)
