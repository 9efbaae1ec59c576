"""An environment that calls itself another LiteLLM release. A real installation takes a minute of downloading."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from support import Stack


def release(stack: Stack, version: str, calls_itself: str | None = None) -> Path:
    """Make an environment with the installed LiteLLM under another number, as `lm upgrade` makes one."""
    made = stack.root / ".lmstack" / f"litellm-{version}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    packages = next(made.glob("lib/python3*/site-packages"))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    info = packages / f"litellm-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {calls_itself or version}\n")
    (made / "installed.json").write_text("{}")
    return made
