"""The local runtime: the proxy (and the built-in model) as processes under supervisord.

supervisord restarts what dies, rotates the log files, and drains on stop; this module writes its
configuration, talks to it over a private socket, and finds what a killed supervisord left behind.
"""

import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault as RpcFault
from xmlrpc.client import ServerProxy

from lmstack import files, proc
from lmstack.errors import ConfigError, LmError, NoLedgerError
from lmstack.ledger import backup
from lmstack.releases import allowed
from lmstack.runtime import base, releases
from lmstack.runtime.logs import LOG_BACKUPS, follow, stored_lines, wanted_lines
from lmstack.runtime.processes import (
    MARK,
    check_port_free,
    end_processes,
    free_port,
    is_supervised,
    processes,
    socket_path,
)
from lmstack.stack import proxy_side
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

PROXY, MODEL = "litellm-proxy", "embedded-model"
STOP_SECONDS = 30
LOG_BYTES = "10MB"
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

    def __init__(self, project: Project) -> None:
        self.project = project

    def check(self, plan: Plan, options: base.UpOptions) -> tuple[str, ...]:
        """Packages, port, writable folders; the configuration itself was checked by planning."""
        version = plan.settings.version
        objection = allowed.version_objection(version)
        remarks = allowed.require_safe(f"LiteLLM {version}", objection and f"it {objection}", options.force)
        releases.command(self.project, version)
        if not plan.deployments:
            raise no_models(plan)
        if not options.dry_run:
            files.ensure_writable_folder(self.project.logs, 0o700)
            files.ensure_writable_folder(self.project.state, 0o700)
        if plan.settings.port != options.own_port:
            check_port_free(plan.settings.host, plan.settings.port)
        if plan.redis and not plan.settings.get("REDIS_URL"):
            raise ConfigError(
                "LITELLM_REDIS=on needs a REDIS_URL in the local runtime", "set REDIS_URL, or use --runtime docker"
            )
        return remarks

    def code(self) -> str:
        """Return the source of the proxy's side, as it is installed."""
        return files.read_all(proxy_side.sources())

    def prepare(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Nothing: the package is installed, or ``check`` has said so."""

    def up(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Write the configurations and start supervisord; a running one is stopped first."""
        if self._supervised() or processes(self.project.root):
            say("Applying the change: stopping the old processes (open requests are finished) …")
            self.down(False, say)
        port = free_port() if plan.embedded else None
        env = self._environment(plan, port) | argument_variables(programs(self.project, plan, port))
        files.write(self.project.config_file, config)
        files.write(
            self._conf, supervisor_conf(programs(self.project, plan, port), socket_path(self.project.root)), 0o600
        )
        argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._conf)]
        log = self.project.logs / "supervisord.log"
        pid = proc.start_detached(argv, env=env, cwd=self.project.root, log=log)
        files.write(self.project.state / "supervisord.pid", f"{pid}\n")

    def down(self, volumes: bool, say: base.Say) -> base.Stopped:
        """Ask supervisord to stop everything (SIGTERM, drain), then make sure that nothing of ours is left."""
        left = processes(self.project.root)
        reached = self._shut_down()
        end_processes(left, STOP_SECONDS + 5, asked=reached)
        base.clear_state(self.project)
        for name in ("supervisord.pid", "supervisor.sock"):
            files.remove(self.project.state / name)
        return base.Stopped(reached or bool(left), self._delete_ledger() if volumes else ())

    def _shut_down(self) -> bool:
        """Ask supervisord to end; whether it was there."""
        try:
            with self._rpc() as rpc:
                rpc.supervisor.shutdown()
        except (OSError, RpcFault):
            return False
        return True

    def _delete_ledger(self) -> tuple[str, ...]:
        """The ledger with its companions and spools; returns what was deleted."""
        found = sorted(self.project.logs.glob("litellm.db*"))
        for path in found:
            files.remove(path)
        return tuple(str(path.relative_to(self.project.root)) for path in found)

    def services(self) -> list[base.Service]:
        """What supervisord says of its programs; empty when it does not run."""
        try:
            with self._rpc() as rpc:
                infos: list[dict[str, Any]] = rpc.supervisor.getAllProcessInfo()  # type: ignore[assignment]
        except (OSError, RpcFault):
            return self._orphans()
        return [
            base.Service(i["name"], _STATES.get(i["statename"], "stopped"), i["description"], i["pid"] or None)
            for i in infos
        ]

    def _orphans(self) -> list[base.Service]:
        """What runs on after its supervisor was killed: nobody would start it again."""
        if is_supervised(self.project.root):
            return [base.Service(PROXY, "starting", "supervisord starts")]
        left = processes(self.project.root)
        detail = "runs without its supervisor; lm up takes over, lm down stops it"
        return [base.Service(PROXY, "failed", detail, left[0])] if left else []

    def logs(self, query: base.LogQuery) -> Iterator[str]:
        """The chosen lines of the log files, oldest first; with follow, until Ctrl-C."""
        names = [query.service] if query.service else [PROXY, MODEL]
        paths = [self.project.logs / f"{name}.log" for name in names]
        if query.service and query.service not in (PROXY, MODEL):
            raise LmError(f"there is no service '{query.service}'", f"choose {PROXY} or {MODEL}")
        for path in paths:
            yield from wanted_lines(stored_lines(path), query)
        if query.follow:
            yield from follow(paths[0], query)

    def log_tail(self, lines: int) -> str:
        """The last lines of the proxy's log."""
        for name in (f"{PROXY}.log", "supervisord.log"):
            found = list(deque(stored_lines(self.project.logs / name), lines))
            if found:
                return "\n".join(found)
        return ""

    def query(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """Read the ledger file; read-only, running or not."""
        return ask_ledger(self.project.ledger, name, arguments)

    def release_keys(self, version: str, say: base.Say) -> dict[str, Any]:
        """Install the release in an environment of its own, unless one has it, and ask it."""
        if releases.python_of(self.project, version) is None:
            say(f"Installing LiteLLM {version} beside the present one (about a minute) …")
            releases.install(self.project, version)
        python = releases.python_of(self.project, version)
        return releases.legal_keys([str(python)], releases.environ(self.project, version))

    def keep_releases(self, versions: set[str]) -> None:
        """Remove what another release left."""
        releases.prune(self.project, versions)

    def save_ledger(self, target: Path) -> dict[str, Any]:
        """Into a tar, while everything runs."""
        with ledger_errors(self.project.ledger), target.open("wb") as stream:
            return backup.save(self.project.ledger, stream)

    def load_ledger(self, source: Path) -> dict[str, Any]:
        """From a tar, while nothing runs."""
        with ledger_errors(self.project.ledger), source.open("rb") as stream:
            return backup.load(self.project.ledger, stream)

    @property
    def _conf(self) -> Path:
        return self.project.state / "supervisord.conf"

    def _supervised(self) -> bool:
        return bool(self.services())

    @contextlib.contextmanager
    def _rpc(self) -> Iterator[ServerProxy]:
        from supervisor.xmlrpc import SupervisorTransport

        path = socket_path(self.project.root)
        if not path.exists():
            raise FileNotFoundError(path)
        transport = SupervisorTransport(None, None, f"unix://{path}")
        try:
            yield ServerProxy("http://127.0.0.1", transport=transport)
        finally:
            transport.close()

    def _environment(self, plan: Plan, port: int | None) -> dict[str, str]:
        env = {**os.environ, **plan.environ, MARK: str(self.project.root), "LEDGER_PATH": str(self.project.ledger)}
        env["PYTHONUNBUFFERED"] = "1"
        env |= releases.environ(self.project, plan.settings.version)
        if port is not None:
            env["EMBEDDED_API_BASE"] = f"http://127.0.0.1:{port}/v1"
        # A rotated file has no terminal: no colour codes in it.
        env["NO_COLOR"] = "1"
        return env


def programs(project: Project, plan: Plan, model_port: int | None) -> dict[str, list[str]]:
    """What supervisord runs: name -> argv."""
    serve = [*releases.command(project, plan.settings.version), "--config", str(project.config_file)]
    serve += ["--host", plan.settings.host, "--port", str(plan.settings.port)]
    # docs/performance.md: Granian starts several workers as fast as one, and serves most per second.
    serve += ["--run_granian", "--num_workers", str(plan.workers)]
    model = [sys.executable, "-m", "lmstack.runtime.embedded", str(model_port), str(project.root)]
    return {MODEL: model, PROXY: serve} if model_port is not None else {PROXY: serve}


def argument_variables(found: Mapping[str, list[str]]) -> dict[str, str]:
    """Each word of the programs' command lines as an environment variable, quoted for supervisord's own splitting. In the
    file itself a `#` or `;` of a path would begin a comment."""
    quoted = {_variable(name, n): _quoted(word) for name, argv in found.items() for n, word in enumerate(argv)}
    return quoted


def supervisor_conf(found: Mapping[str, list[str]], sock: Path) -> str:
    """supervisord.conf, with paths relative to the stack's folder, in which supervisord runs. No secret is in it: the
    programs inherit supervisord's environment."""
    near = sock.parent.name == ".lmstack"
    sections = [
        f"[unix_http_server]\nfile={'.lmstack/' + sock.name if near else sock}\nchmod=0700\n",
        "[supervisord]\nlogfile=logs/supervisord.log\nlogfile_maxbytes=1MB\nlogfile_backups=1\n"
        "pidfile=.lmstack/supervisord.run\nsilent=true\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
    ]
    for name, argv in found.items():
        command = " ".join(f"%(ENV_{_variable(name, n)})s" for n in range(len(argv)))
        sections.append(
            f"[program:{name}]\ncommand={command}\n"
            f"autorestart=true\nstartsecs=3\nstartretries=2\nstopsignal=TERM\nstopwaitsecs={STOP_SECONDS}\nkillasgroup=true\n"
            f"redirect_stderr=true\nstdout_logfile=logs/{name}.log\n"
            f"stdout_logfile_maxbytes={LOG_BYTES}\nstdout_logfile_backups={LOG_BACKUPS}\n"
        )
    return "\n".join(sections)


def _variable(program: str, place: int) -> str:
    return f"LMSTACK_{program.replace('-', '_').upper()}_{place}"


def _quoted(word: str) -> str:
    """One word for shlex, which supervisord splits a command with."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def no_models(plan: Plan) -> ConfigError:
    """Nothing could be served."""
    keys = ", ".join(sorted(set(plan.unserved.values())))
    return ConfigError(
        "no model can be served: no provider has a key", f"set one of {keys} in .env, then run 'lm up' again"
    )


def ask_ledger(path: Path, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Query a ledger file; LmError when there is none or it is not readable."""
    from lmstack.ledger import queries

    with ledger_errors(path):
        return queries.ask(path, name, arguments)


@contextlib.contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """What reading or replacing a ledger may raise, as LmError."""
    import sqlite3

    from lmstack.ledger.schema import LedgerVersionError

    try:
        yield
    except FileNotFoundError:
        raise NoLedgerError(
            f"there is no ledger at {path} yet", "it appears with the first request; start with: lm up"
        ) from None
    except LedgerVersionError as error:
        raise LmError(str(error), "pip install -U lmstack") from None
    except backup.BackupError as error:
        raise LmError(f"this is no backup of a ledger, or a damaged one: {error}") from None
    except (sqlite3.Error, OSError) as error:
        raise LmError(f"the ledger {path} cannot be read or written: {error}", "lm doctor") from None
