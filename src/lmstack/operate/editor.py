"""Lets the user edit .env or models.yaml in an editor. The file itself changes only when the new text is valid."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lmstack import files, proc
from lmstack.catalog.models import parse_catalog
from lmstack.config.check_env import env_problems
from lmstack.config.env_example import env_example
from lmstack.config.envfile import parse_env
from lmstack.config.settings import parse_settings
from lmstack.errors import ConfigError, LmError, MissingToolError, Problem, UsageError, invalid
from lmstack.operate.validation import catalog_or_shipped
from lmstack.stack.project import Project, shipped_catalog

EDITABLE = (".env", "models.yaml")
_FALLBACK_EDITORS = ("nano", "vim", "vi")
_NEW_MODELS_FILE = "# Your own models, prices, routing rules and budgets: see docs/providers.md and docs/routing.md\n"


def edit_file(project: Project, name: str, edit_again: Callable[[Sequence[Problem]], bool]) -> bool:
    """Open a private copy of a file in the editor and write it back; return whether the file changed.

    ``edit_again`` gets the problems of a text and returns whether the editor is opened again. Raises ConfigError when
    it returns False. Raises MissingToolError when there is no editor.
    """
    project.require_stack_or_blank()
    argv = editor_command()
    path = project.root / name
    old = files.read(path)
    # The folder has mode 700. Editors put their backup copies into it, and it is deleted afterwards.
    with tempfile.TemporaryDirectory(prefix="lm-edit-") as folder:
        copy = Path(folder) / name
        files.write(copy, _new_file(name) if old is None else old, files.PRIVATE)
        while True:
            text, problems = _edited(project, name, [*argv, str(copy)], copy)
            if not problems:
                break
            if not edit_again(problems):
                raise invalid(problems)
    if text == (_new_file(name) if old is None else old):
        return False
    if files.read(path) != old:
        raise LmError(f"{path} was changed by another program; nothing was written", "edit it again")
    return files.write(path, text, files.PRIVATE if name == ".env" else 0o644)


def editor_command() -> list[str]:
    """Return the command of the editor: $VISUAL, $EDITOR, or an editor that is installed. Raises MissingToolError."""
    variable = next((name for name in ("VISUAL", "EDITOR") if os.environ.get(name, "").strip()), None)
    if variable is None:
        found = next((editor for editor in _FALLBACK_EDITORS if shutil.which(editor)), None)
        if found is None:
            raise MissingToolError("no editor was found", "name one: export EDITOR=/path/to/editor")
        return [found]
    try:
        argv = shlex.split(os.environ[variable])
    except ValueError as error:
        raise UsageError(f"${variable} cannot be read: {error}", f"correct it: export {variable}=nano") from None
    if shutil.which(argv[0]) is None:
        raise MissingToolError(f"the editor '{argv[0]}' of ${variable} is not installed", f"export {variable}=nano")
    return argv


def _edited(project: Project, name: str, argv: list[str], copy: Path) -> tuple[str, list[Problem]]:
    """Run the editor and return the saved text with its problems."""
    code = proc.interactive(argv)
    if code:
        raise LmError(f"the editor '{argv[0]}' ended with status {code}; nothing was written")
    try:
        text = files.read(copy)
    except ConfigError as error:  # it is not UTF-8
        return "", list(error.problems)
    if text is None:
        raise LmError("the editor deleted the file; nothing was written")
    return text, _problems(project, name, text)


def _problems(project: Project, name: str, text: str) -> list[Problem]:
    try:
        if name != ".env":
            parse_catalog(shipped_catalog(), text)
            return []
        # A broken models.yaml must not keep the user from editing .env.
        settings = parse_settings(parse_env(text), {}, None, catalog_or_shipped(project).variables)
        for_docker = settings.get("LITELLM_RUNTIME") != "local"
        return [problem for problem in env_problems(text, for_docker) if not problem.warning]
    except ConfigError as error:
        return list(error.problems)


def _new_file(name: str) -> str:
    return env_example() if name == ".env" else _NEW_MODELS_FILE
