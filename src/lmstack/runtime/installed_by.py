"""How lmstack was installed, to name the one command that adds what is missing."""

import shlex
import sys
from pathlib import Path

import lmstack

EXTRA = "lmstack[local]"
# A part of the environment's path -> the command of the tool that made the environment.
_TOOLS = {
    "/pipx/": f"pipx install --force '{EXTRA}'",
    "/uv/tools/": f"uv tool install --force '{EXTRA}'",
    "/uv/archive-": f"uvx --from '{EXTRA}' lm up",
    "/uv/environments-": f"uvx --from '{EXTRA}' lm up",
}


def install_command(prefix: str = sys.prefix, package: Path = Path(lmstack.__file__).parent) -> str:
    """Return the command that installs the LiteLLM proxy into this environment."""
    script = package.parents[1] / "start-litellm.sh"
    if package.parent.name == "src" and script.exists():
        return shlex.quote(str(script))
    found = next((command for part, command in _TOOLS.items() if part in f"{prefix}/"), None)
    return found or f"{shlex.quote(sys.executable)} -m pip install '{EXTRA}'"
