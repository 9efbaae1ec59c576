"""init: make a stack in a folder."""

import contextlib
import sys
from typing import Annotated

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.errors import ConfigError
from lmstack.operate.setup import env_from_answers
from lmstack.result import Result
from lmstack.stack.assets import lay_down
from lmstack.stack.project import Project


@command("init", "lm init --dir my-gateway")
def init(
    context: Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; keys can be set later.")] = False,
) -> Result:
    """Create a stack in this folder.

    It consists of compose file, Dockerfile, callbacks and .env. Existing files are kept. On a terminal, lm asks for keys,
    port and TaskMaster's address. Nothing is written before the last answer.
    """
    project = context.project
    asks = context.may_ask and not yes
    made = lay_down(project, env_from_answers(project, _ask, _tell) if asks else files.read(project.env_file))
    has_key = _has_key(project)
    lines = (
        f"Stack in {project.root}: {', '.join(_folded(made)) or 'all files existed already'}",
        "Next: lm up" if has_key else "Next: lm config set OPENAI_API_KEY (or another provider's), then: lm up",
    )
    return Result("init", {"root": str(project.root), "created": made, "has_key": has_key}, lines)


def _ask(question: str, hidden: bool) -> str:
    return str(typer.prompt(question, default="", show_default=False, hide_input=hidden, err=True))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _has_key(project: Project) -> bool:
    """Return whether any provider has a key. Problems of the settings are left to the next command."""
    with contextlib.suppress(ConfigError):
        settings = project.settings()
        return any(settings.get(provider.key) for provider in project.catalog().providers.values() if provider.key)
    return False


def _folded(names: list[str]) -> list[str]:
    """Replace files in a folder by the folder."""
    return list(dict.fromkeys(f"{name.split('/')[0]}/" if "/" in name else name for name in names))
