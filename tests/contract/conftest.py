"""Here a stack's commands run in this process: these tests are about what a command says and writes."""

import shutil
from pathlib import Path

import pytest

from support import InProcessStack, Stack, free_port


@pytest.fixture
def stack(tmp_path: Path, new_folder: Path) -> Stack:
    """Make a folder in which nothing runs. Its commands run in this process."""
    shutil.copytree(new_folder, tmp_path, dirs_exist_ok=True)
    made = InProcessStack(tmp_path, free_port(), {"LITELLM_RUNTIME": "local"})
    made.write_env()
    return made
