"""The programs that supervisord runs, and their command lines."""

import os
import sys

from lmstack.runtime.processes import KEEPER, MARK
from lmstack.runtime.server_control import keeper_folder
from lmstack.stack.project import Project

PROXY, MODEL = "litellm-proxy", "embedded-model"


def _clean_environment(project: Project) -> list[str]:
    """Return the beginning of a command line that takes all keys out of a program's environment.

    The built-in model is a parser in C++ and needs no key. supervisord itself has the keys, because it starts the proxy.
    """
    kept = {name: os.environ[name] for name in _PLAIN_VARIABLES if name in os.environ}
    kept |= {MARK: str(project.root), "PYTHONUNBUFFERED": "1"}
    return ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in sorted(kept.items()))]


# Where programs, files and certificates are: no key is in them.
_PLAIN_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_DATA_HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH",
)  # fmt: skip


def programs(project: Project, model_port: int | None) -> dict[str, list[str]]:
    """Return the programs: name -> argv. The proxy's one is the keeper of the port, which starts the server."""
    proxy = [sys.executable, "-m", KEEPER, str(keeper_folder(project))]
    model = [*_clean_environment(project), sys.executable, "-m", "lmstack.runtime.embedded", str(model_port), str(project.root)]  # fmt: skip
    return {MODEL: model, PROXY: proxy} if model_port is not None else {PROXY: proxy}
