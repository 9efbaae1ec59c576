"""Start other programs that use this gateway: a client, or the browser."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from lmstack.errors import MissingToolError, UsageError
from lmstack.operate.clients import CLIENTS, environ_for
from lmstack.runtime.base import load_state
from lmstack.stack.project import Project


def gateway_url(project: Project) -> str:
    """Return the address of the gateway that runs here, else the one that the settings give."""
    state = load_state(project)
    return state.url if state else f"http://localhost:{project.settings().port}"


def client_command(
    project: Project, client: str, words: Sequence[str], model: str, key: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of `lm run` and the environment variables to add. ``key``: a secret; default: the master key.

    Raises UsageError when a library has no program to run, and MissingToolError when the program is missing.
    """
    chosen = CLIENTS[client]
    argv = [*chosen.command, *words]
    if not argv:
        raise UsageError(f"'{client}' is a library: name a program to run", f"lm run {client} python3 my_script.py")
    if shutil.which(argv[0]) is None:
        raise MissingToolError(f"'{argv[0]}' is not installed or not on PATH", "install it, or give its path")
    return argv, environ_for(chosen, gateway_url(project), key or project.settings().master_key, model)


def replace_process(argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Run a program in place of lm, so that its exit code is ours; MissingToolError when it cannot be run."""
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], list(argv), {**os.environ, **environ})  # noqa: S606 - the program replaces lm
    except OSError as error:
        raise _cannot_run(argv[0], error) from None


def run_captured(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a program, wait for it, and return its exit code and its standard output. Everything else stays as it is."""
    try:
        done = subprocess.run(list(argv), env={**os.environ, **environ}, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise _cannot_run(argv[0], error) from None
    code = (
        done.returncode if done.returncode >= 0 else 128 - done.returncode
    )  # ended by a signal: the number that a shell reports
    return code, done.stdout.decode(errors="replace")


def _cannot_run(program: str, error: OSError) -> MissingToolError:
    return MissingToolError(
        f"cannot run '{program}': {error.strerror}", f"check it with: file -L {shlex.quote(program)}"
    )


def has_desktop() -> bool:
    """Return whether a person sits at a screen: not in a pipe, over ssh, or in a container."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_in_browser(address: str) -> bool:
    """Open an address; return whether a browser took it."""
    import webbrowser

    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):  # harmless: the address is printed
        return False
