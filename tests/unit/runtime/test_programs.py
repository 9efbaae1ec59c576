"""The programs of the local runtime."""

import os
import subprocess
import sys
from pathlib import Path

from lmstack.runtime.programs import MODEL, programs
from lmstack.stack.project import Project


def test_the_built_in_model_gets_no_key(tmp_path: Path) -> None:
    argv = programs(Project(tmp_path), 4001)[MODEL]
    shown = [*argv[: argv.index(sys.executable)], sys.executable, "-c", "import os; print(*os.environ)"]
    environ = {
        **os.environ,
        "OPENAI_API_KEY": "sk-canary-0123456789",
        "LITELLM_MASTER_KEY": "canary",
        "DB_URL": "a://b:c@d",
    }
    found = subprocess.run(shown, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert {"PATH", "LMSTACK_HOME"} <= set(found)
    assert not {"OPENAI_API_KEY", "LITELLM_MASTER_KEY", "DB_URL"} & set(found)
