"""supervisord: its configuration file, and calls to a running one over its private socket."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Error as RpcError
from xmlrpc.client import ServerProxy

from lmstack.runtime.logs import LOG_BACKUPS
from lmstack.runtime.processes import socket_path

STOP_SECONDS = 30
LOG_BYTES = "10MB"
ANSWER_SECONDS = 10.0
# What a call raises when supervisord is not there, ends in the middle of an answer, or refuses the call.
_NO_ANSWER = (OSError, HTTPException, RpcError, ExpatError)


def process_infos(root: Path) -> list[dict[str, Any]] | None:
    """Return what supervisord knows of each program; None when it does not answer."""
    try:
        with _rpc(root) as rpc:
            infos: list[dict[str, Any]] = rpc.supervisor.getAllProcessInfo()  # type: ignore[assignment]
            return infos
    except _NO_ANSWER:
        return None


def pids(root: Path) -> list[int]:
    """Return the pids of supervisord and of its programs; empty when it does not answer."""
    try:
        with _rpc(root) as rpc:
            own: int = rpc.supervisor.getPID()  # type: ignore[assignment]
            infos: list[dict[str, Any]] = rpc.supervisor.getAllProcessInfo()  # type: ignore[assignment]
            return [own, *(info["pid"] for info in infos if info["pid"])]
    except _NO_ANSWER:
        return []


def shut_down(root: Path) -> bool:
    """Ask supervisord to stop its programs and to end; return whether it answered."""
    try:
        with _rpc(root) as rpc:
            rpc.supervisor.shutdown()
    except _NO_ANSWER:
        return False
    return True


@contextlib.contextmanager
def _rpc(root: Path) -> Iterator[ServerProxy]:
    from supervisor.xmlrpc import SupervisorTransport

    path = socket_path(root)
    if not path.exists():
        raise FileNotFoundError(path)
    transport = SupervisorTransport(None, None, f"unix://{path}")
    transport._get_connection = lambda: _Connection(path)
    try:
        yield ServerProxy("http://127.0.0.1", transport=transport)
    finally:
        transport.close()


class _Connection(HTTPConnection):
    """A connection to supervisord's socket, with a time-out. A process can hang, or be stopped by SIGSTOP."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def argument_variables(found: Mapping[str, list[str]]) -> dict[str, str]:
    """Return each word of the programs' command lines as an environment variable, quoted for supervisord.

    supervisord.conf refers to the variables. In the file itself, a ``#`` or ``;`` in a path would begin a comment.
    """
    return {_variable(name, n): _quoted(word) for name, argv in found.items() for n, word in enumerate(argv)}


def supervisor_conf(found: Mapping[str, list[str]], sock: Path) -> str:
    """Return the text of supervisord.conf. Its paths are relative to the stack's folder, in which supervisord runs.

    No secret is in it: the programs inherit supervisord's environment.
    """
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
    """Quote one word for shlex, with which supervisord splits a command."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
