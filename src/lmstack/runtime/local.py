"""The local runtime: the proxy (and the built-in model) as processes under supervisord.

supervisord restarts what dies, rotates the log files, and drains on stop; this module writes its
configuration, talks to it over a private socket, and finds what a killed supervisord left behind.
"""

import contextlib
import hashlib
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault as RpcFault
from xmlrpc.client import ServerProxy

from lmstack import files, proc
from lmstack.errors import ConfigError, LmError, NoLedgerError
from lmstack.ledger import backup
from lmstack.releases import allowed
from lmstack.runtime import base, releases
from lmstack.stack import proxy_side
from lmstack.stack.plan import Plan
from lmstack.stack.project import Project

PROXY, MODEL = "litellm-proxy", "embedded-model"
STOP_SECONDS = 30
LOG_BYTES, LOG_BACKUPS = "10MB", 5
MARK = "LMSTACK_HOME"
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
        files.ensure_writable_folder(self.project.logs)
        files.ensure_writable_folder(self.project.state)
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

    def up(self, plan: Plan, config: str, options: base.UpOptions, say: base.Say) -> None:
        """Write the configurations and start supervisord; a running one is stopped first."""
        if self._supervised() or processes(self.project.root):
            say("Applying the change: stopping the old processes (open requests are finished) …")
            self.down(False, say)
        port = free_port() if plan.embedded else None
        env = self._environment(plan, port)
        files.write(self.project.config_file, config)
        files.write(self._conf, supervisor_conf(self.project, plan, port, socket_path(self.project.root)), 0o600)
        argv = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._conf)]
        log = self.project.logs / "supervisord.log"
        pid = proc.start_detached(argv, env=env, cwd=self.project.root, log=log)
        files.write(self.project.state / "supervisord.pid", f"{pid}\n")

    def down(self, volumes: bool, say: base.Say) -> bool:
        """Ask supervisord to stop everything (SIGTERM, drain), then make sure that nothing of ours is left."""
        left = processes(self.project.root)
        if not left:
            return False
        with contextlib.suppress(OSError, RpcFault), self._rpc() as rpc:
            rpc.supervisor.shutdown()
        end_processes(left, STOP_SECONDS + 5)
        base.clear_state(self.project)
        files.remove(self.project.state / "supervisord.pid")
        if volumes:
            for path in self.project.logs.glob("litellm.db*"):
                files.remove(path)
        return True

    def services(self) -> list[base.Service]:
        """What supervisord says of its programs; empty when it does not run."""
        try:
            with self._rpc() as rpc:
                infos: list[dict[str, Any]] = rpc.supervisor.getAllProcessInfo()  # type: ignore[assignment]
        except (OSError, RpcFault):
            return []
        return [
            base.Service(i["name"], _STATES.get(i["statename"], "stopped"), i["description"], i["pid"] or None)
            for i in infos
        ]

    def logs(self, query: base.LogQuery) -> Iterator[str]:
        """The chosen lines of the log files, oldest first; with follow, until Ctrl-C."""
        names = [query.service] if query.service else [PROXY, MODEL]
        paths = [self.project.logs / f"{name}.log" for name in names]
        if query.service and query.service not in (PROXY, MODEL):
            raise LmError(f"there is no service '{query.service}'", f"choose {PROXY} or {MODEL}")
        for path in paths:
            yield from wanted_lines(_stored_lines(path), query)
        if query.follow:
            yield from _follow(paths[0], query)

    def log_tail(self, lines: int) -> str:
        """The last lines of the proxy's log."""
        text = files.read(self.project.logs / f"{PROXY}.log") or files.read(self.project.logs / "supervisord.log") or ""
        return "\n".join("    " + line[:300] for line in text.splitlines()[-lines:])

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


def supervisor_conf(project: Project, plan: Plan, model_port: int | None, sock: Path) -> str:
    """supervisord.conf. No secret is in it: the programs inherit supervisord's environment."""
    serve = [
        *releases.command(project, plan.settings.version),
        "--config",
        str(project.config_file),
        "--host",
        plan.settings.host,
        "--port",
        str(plan.settings.port),
    ]
    # docs/performance.md: Granian starts several workers as fast as one, and serves most per second.
    serve += ["--run_granian", "--num_workers", str(plan.workers)]
    programs = [(PROXY, serve)]
    if model_port is not None:
        programs.insert(0, (MODEL, [sys.executable, "-m", "lmstack.runtime.embedded", str(model_port)]))
    sections = [
        f"[unix_http_server]\nfile={_escape(str(sock))}\nchmod=0700\n",
        f"[supervisord]\nlogfile={_escape(str(project.logs))}/supervisord.log\nlogfile_maxbytes=1MB\nlogfile_backups=1\n"
        f"pidfile={_escape(str(project.state))}/supervisord.run\nsilent=true\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
    ]
    for name, argv in programs:
        sections.append(
            f"[program:{name}]\ncommand={_escape(proc.quoted(argv))}\ndirectory={_escape(str(project.root))}\n"
            f"autorestart=true\nstartsecs=3\nstartretries=2\nstopsignal=TERM\nstopwaitsecs={STOP_SECONDS}\nkillasgroup=true\n"
            f"redirect_stderr=true\nstdout_logfile={_escape(str(project.logs))}/{name}.log\n"
            f"stdout_logfile_maxbytes={LOG_BYTES}\nstdout_logfile_backups={LOG_BACKUPS}\n"
        )
    return "\n".join(sections)


def no_models(plan: Plan) -> ConfigError:
    """Nothing could be served."""
    keys = ", ".join(sorted(set(plan.unserved.values())))
    return ConfigError(
        "no model can be served: no provider has a key", f"set one of {keys} in .env, then run 'lm up' again"
    )


def check_port_free(host: str, port: int) -> None:
    """Raise LmError, with who holds the port, unless it can be bound. LiteLLM would silently choose another one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            holder = _holder(port)
            raise LmError(
                f"port {port} on {host} cannot be used: {error.strerror}" + (f"; {holder} has it" if holder else ""),
                f"stop what has it, or choose another: lm up --port {_next_free(port)}",
            ) from None


def _holder(port: int) -> str:
    """Name and pid of the process that listens on a port; "" where this user may not know it."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def _next_free(port: int) -> int:
    """The next port above that can be bound on the loopback."""
    for candidate in range(port + 1, min(port + 100, 65536)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate
    return free_port()


def free_port() -> int:
    """A port of the loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def socket_path(root: Path) -> Path:
    """supervisord's socket: a short path (they are limited to about 100 bytes) in a folder that is ours alone."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"lmstack-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise LmError(f"{folder} is open to other users", f"mend it with: chmod 700 {folder}")
    return folder / (hashlib.sha256(str(root).encode()).hexdigest()[:16] + ".sock")


def processes(root: Path) -> list[int]:
    """Pids of everything this folder's local runtime started, found by the mark in their environment."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(root):
                found.append(process.pid)
    return found


def end_processes(pids: list[int], seconds: float) -> None:
    """Wait for processes to end; supervisord was asked already, so SIGTERM goes only to those without one."""
    import psutil

    alive = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            alive.append(psutil.Process(pid))
    supervised = any("supervisor.supervisord" in _cmdline(p) for p in alive)
    if not supervised:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.terminate()
    _, stuck = psutil.wait_procs(alive, timeout=seconds)
    for process in stuck:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stuck, timeout=5)


def _cmdline(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


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


def wanted_lines(lines: Iterator[str], query: base.LogQuery) -> list[str]:
    """Filter by time, level and call id. Lines without a time of their own belong to the one before."""
    cut = None if query.since is None else datetime.fromtimestamp(time.time() - query.since, timezone.utc)
    keep, kept = cut is None, []
    for line in lines:
        when = line_time(line)
        if when is not None and cut is not None:
            keep = when >= cut
        if keep and _matches(line, query):
            kept.append(line)
    return kept[-query.tail :] if query.tail else kept


_JSON_TIME = re.compile(r'"timestamp": ?"([0-9T:.\-+Z ]+)"')
_LEVEL = re.compile(r'"level": ?"(\w+)"|\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b')
_RANK = {"DEBUG": 0, "INFO": 1, "WARNING": 2, "ERROR": 3, "CRITICAL": 4}


def line_time(line: str) -> datetime | None:
    """The time that a JSON log line carries; LiteLLM writes local time without a zone."""
    found = _JSON_TIME.search(line)
    if not found:
        return None
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(found.group(1).replace("Z", "+00:00")).astimezone(timezone.utc)
    return None


def _matches(line: str, query: base.LogQuery) -> bool:
    if query.call_id and query.call_id not in line:
        return False
    if query.level is None:
        return True
    found = _LEVEL.search(line)
    level = (found.group(1) or found.group(2)).upper() if found else "INFO"
    return _RANK.get(level, 1) >= _RANK[query.level.upper()]


def _stored_lines(path: Path) -> Iterator[str]:
    rotated = [path.with_name(f"{path.name}.{n}") for n in range(LOG_BACKUPS, 0, -1)]
    for one in [*rotated, path]:
        yield from (files.read(one) or "").splitlines()


def _follow(path: Path, query: base.LogQuery) -> Iterator[str]:
    while not path.exists():
        time.sleep(0.2)
    stream = path.open(errors="replace")
    stream.seek(0, os.SEEK_END)
    while True:
        line = stream.readline()
        if line:
            plain = base.LogQuery(level=query.level, call_id=query.call_id)
            yield from wanted_lines(iter([line.rstrip("\n")]), plain)
        elif path.exists() and path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
            stream.close()
            stream = path.open(errors="replace")
        else:
            time.sleep(0.2)  # the pace of a tail


def _escape(text: str) -> str:
    return text.replace("%", "%%")
