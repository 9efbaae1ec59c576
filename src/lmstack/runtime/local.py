"""The local runtime: the proxy (and the built-in model) as processes under supervisord.

supervisord restarts a process that ends, rotates the log files, and lets open requests finish on a stop.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lmstack import files, proc
from lmstack.errors import ConfigError, LmError
from lmstack.ledger import backup
from lmstack.releases import allowed
from lmstack.runtime import base, keeper_control, launching, releases, server_control, supervisor, weights
from lmstack.runtime.ledger_file import ask_ledger, ledger_errors
from lmstack.runtime.logs import follow, stored_lines, wanted_lines
from lmstack.runtime.ports import check_port_free, free_port
from lmstack.runtime.processes import (
    end_processes,
    forget_processes,
    is_supervised,
    processes,
    record_processes,
    socket_path,
)
from lmstack.runtime.programs import MODEL, PROXY, programs
from lmstack.runtime.workers import Workers, reported
from lmstack.stack import proxy_side
from lmstack.stack.plan import Plan, no_models
from lmstack.stack.project import Project

_STATES = {
    "RUNNING": "running",
    "STARTING": "starting",
    "BACKOFF": "restarting",
    "FATAL": "failed",
    "STOPPING": "stopping",
}


class LocalRuntime:
    """Implements base.Runtime with supervisord."""

    name = "local"
    service_names: tuple[str, ...] = (PROXY, MODEL)

    def __init__(self, project: Project) -> None:
        self.project = project
        self._log_start = 0  # where the log of the present start begins

    def require_tools(self, plan: Plan) -> None:
        """Raise MissingToolError when the release of the settings is not installed."""
        releases.command(self.project, plan.settings.version)

    def check(self, plan: Plan, options: base.UpOptions) -> tuple[str, ...]:
        """Check release, models, folders and port; return remarks."""
        version = plan.settings.version
        objection = allowed.version_objection(version)
        remarks = allowed.require_safe(f"LiteLLM {version}", objection and f"it {objection}", options.force)
        self.require_tools(plan)
        self.project.require_own_config()
        if not plan.deployments:
            raise no_models(plan)
        if not options.dry_run:
            files.ensure_writable_folder(self.project.logs, 0o700)
            files.ensure_writable_folder(self.project.state, 0o700)
        check_port_free(base.Address(plan.settings.host, plan.settings.port), options.own_address)
        if plan.redis and not plan.settings.get("REDIS_URL"):
            raise ConfigError(
                "LITELLM_REDIS=on needs a REDIS_URL in the local runtime", "set REDIS_URL, or use --runtime docker"
            )
        return remarks

    def code(self) -> str:
        """Return the source of the proxy's side, as it is installed."""
        return files.read_all(proxy_side.sources())

    def prepare(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Download the weights of the built-in model, when the plan needs them for the first time."""
        if plan.embedded and weights.model_path() is None:
            say(f"Downloading the built-in model (once, {weights.MEGABYTES} MB) …")
            weights.download()

    def up(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Write the configuration and start supervisord. Running processes are stopped first."""
        root = self.project.root
        if self.services() or processes(root):
            say("Applying the change: stopping the old processes (open requests are finished) …")
            self.down(False, say)
        port = free_port() if plan.embedded else None
        started = programs(self.project, port)
        env = launching.environment(self.project, plan) | supervisor.argument_variables(started)
        files.write(self.project.config_file, config)
        keeper_control.write_launch(self.project, plan, launching.server_settings(self.project, plan, port))
        files.write(self._conf, supervisor.supervisor_conf(started, socket_path(root)), 0o600)
        self._log_start = self._proxy_log.stat().st_size if self._proxy_log.exists() else 0
        argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._conf)]
        pid = proc.start_detached(argv, env=env, cwd=root, log=self.project.logs / "supervisord.log")
        files.write(self.project.state / "supervisord.pid", f"{pid}\n")
        record_processes(root, [pid])

    def can_change(self) -> bool:
        """Return whether the server runs and has reported that it takes changes."""
        return bool(server_control.report(self.project, self._server_pid()))

    def change(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Have the running server apply the change: new workers take the place of the old ones."""
        pid, settings = self._running(plan)
        server_control.change(self.project, plan, config, settings, pid, options, say)

    def runs(self, plan: Plan) -> bool:
        """Return whether the release of this plan is the one that runs, or will run again."""
        return keeper_control.runs(self.project, plan)

    def can_hand_over(self) -> bool:
        """Return whether a new server can take the place of the running one."""
        return keeper_control.can_take_over(self.project, self._server_pid())

    def hand_over(
        self, plan: Plan, config: str, options: base.UpOptions, say: base.Say, prove: Callable[[], None]
    ) -> None:
        """Let a new server take the place of the running one, and stay there when ``prove`` raises nothing."""
        pid, settings = self._running(plan)
        keeper_control.Takeover(self.project, pid, plan, config, settings).run(options, say, prove)

    def _running(self, plan: Plan) -> tuple[int, dict[str, str]]:
        """Return the pid of the running keeper, and the settings for a server beside the built-in model that runs."""
        pid, address = self._server_pid(), server_control.environment(self.project).get("EMBEDDED_API_BASE", "")
        if pid is None:
            raise LmError("the server does not run any more", "start it again: lm restart")
        port = urlsplit(address).port if plan.embedded else None
        return pid, launching.server_settings(self.project, plan, port)

    def workers(self) -> Workers:
        """Return the worker processes, as the server reports them."""
        return reported(server_control.report(self.project, self._server_pid()))

    def _server_pid(self) -> int | None:
        infos = supervisor.process_infos(self.project.root) or []
        return next((info["pid"] or None for info in infos if info["name"] == PROXY), None)

    def settle(self) -> None:
        """Record every process, so that `lm down` finds them where the system hides command lines."""
        record_processes(self.project.root, supervisor.pids(self.project.root))

    def placement(self) -> base.Placement:
        """Return an empty placement: there is no image and no engine."""
        return base.Placement()

    def give_up(self, say: base.Say) -> None:
        """Stop everything; the log files stay."""
        self.down(False, say)

    def down(self, volumes: bool, say: base.Say) -> base.Stopped:
        """Let supervisord stop its programs, then end each of our processes that is left."""
        left = processes(self.project.root, supervisor.pids(self.project.root))
        reached = supervisor.shut_down(self.project.root)
        end_processes(left, supervisor.STOP_SECONDS + 5, already_stopping=reached)
        base.clear_state(self.project, self.name)
        forget_processes(self.project.root)
        server_control.forget_environment(self.project)
        files.remove(self.project.root / keeper_control.TRIAL)
        for name in ("supervisord.pid", "supervisor.sock"):
            files.remove(self.project.state / name)
        return base.Stopped(reached or bool(left), self._delete_ledger() if volumes else ())

    def _delete_ledger(self) -> tuple[str, ...]:
        """Delete the ledger with its companion files and spools; return their names."""
        found = sorted(self.project.logs.glob("litellm.db*"))
        for path in found:
            files.remove(path)
        return tuple(str(path.relative_to(self.project.root)) for path in found)

    def services(self) -> list[base.Service]:
        """Return what supervisord knows of its programs; without it, the processes that are left."""
        infos = supervisor.process_infos(self.project.root)
        if infos is None:
            return self._unsupervised()
        return [
            base.Service(i["name"], _STATES.get(i["statename"], "stopped"), i["description"], i["pid"] or None)
            for i in infos
        ]

    def _unsupervised(self) -> list[base.Service]:
        """Return a supervisord that only starts, or a gateway that lost its supervisord."""
        if is_supervised(self.project.root):
            return [base.Service(PROXY, "starting", "supervisord starts")]
        left = processes(self.project.root)
        detail = "runs without its supervisor; lm up takes over, lm down stops it"
        return [base.Service(PROXY, "failed", detail, left[0])] if left else []

    def logs(self, query: base.LogQuery) -> Iterator[str]:
        """Return the chosen lines of the log files, oldest first; with ``follow``, until Ctrl-C."""
        names = [query.service] if query.service else self.service_names
        paths = [self.project.logs / f"{name}.log" for name in names]
        for path in paths:
            yield from wanted_lines(stored_lines(path), query)
        if query.follow:
            yield from follow(paths[0], query)

    def log_tail(self, lines: int) -> str:
        """Return the last lines of the proxy's log; of supervisord's log when the proxy wrote none.

        After a start, lines from before that start are left out.
        """
        own = deque(stored_lines(self._proxy_log, self._log_start), lines)
        return "\n".join(own or deque(stored_lines(self.project.logs / "supervisord.log"), lines))

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the answer of a ledger query. Reads the file only."""
        return ask_ledger(self.project.ledger, name, arguments)

    def release_keys(self, version: str, say: base.Say) -> dict[str, Any]:
        """Install a release in its own environment, and return which configuration keys it knows."""
        if releases.python_of(self.project, version) is None:
            say(f"Installing LiteLLM {version} beside the present one (about a minute) …")
            releases.install(self.project, version)
        python = releases.python_of(self.project, version)
        return releases.legal_keys([str(python)], releases.environ(self.project, version))

    def recorded(self, version: str) -> str:
        """Return where the hashes of a release are recorded."""
        return releases.recorded(self.project, version)

    def keep_releases(self, versions: set[str]) -> None:
        """Remove the environments of all other releases, except those that still finish requests."""
        releases.prune(self.project, versions | releases.in_use(self.project, processes(self.project.root)))

    def save_ledger(self, target: Path) -> dict[str, Any]:
        """Write the ledger into a tar file; the gateway may run."""
        with ledger_errors(self.project.ledger), target.open("wb") as stream:
            return backup.save(self.project.ledger, stream)

    def load_ledger(self, source: Path) -> dict[str, Any]:
        """Replace the ledger by that of a tar file; the gateway must not run."""
        with ledger_errors(self.project.ledger), source.open("rb") as stream:
            return backup.load(self.project.ledger, stream)

    @property
    def _conf(self) -> Path:
        return self.project.state / "supervisord.conf"

    @property
    def _proxy_log(self) -> Path:
        return self.project.logs / f"{PROXY}.log"
