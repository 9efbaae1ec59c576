"""The programs of the local runtime."""

import os
import subprocess
import sys
from pathlib import Path

from lmstack.catalog.models import parse_catalog
from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.runtime.programs import MODEL, programs
from lmstack.stack.plan import Facts, plan_stack
from lmstack.stack.project import Project, shipped_catalog


def test_the_built_in_model_gets_no_key(tmp_path: Path) -> None:
    catalog = parse_catalog(shipped_catalog())
    plan = plan_stack(parse_settings(parse_env(""), {}, {}, frozenset()), catalog, Facts("local", embedded=True))
    argv = programs(Project(tmp_path), plan, 4001)[MODEL]
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
