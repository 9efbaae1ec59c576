"""completion: the shell's completion script."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.options import OneOf
from lmstack.result import Result

SHELLS = ("bash", "zsh", "fish")


@command("completion", "lm completion bash >> ~/.bashrc")
def completion(
    context: Context, shell: Annotated[str, typer.Argument(help="Your shell."), OneOf(SHELLS)] = "bash"
) -> Result:
    """Print the completion script for your shell.

    With it, the Tab key completes commands, options, and the names of models, tasks and requests.
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="lm", complete_var="_LM_COMPLETE", shell=shell)
    return Result("completion", {"shell": shell, "script": script}, (script,))
