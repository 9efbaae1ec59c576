"""validate, render: what will run, before it runs."""

from pathlib import Path
from typing import Annotated

import typer

from lmstack import files
from lmstack.cli.app import Context, command
from lmstack.cli.options import RUNTIMES, OneOf
from lmstack.errors import Exit, invalid
from lmstack.operate.planning import planned, runtime_flags
from lmstack.operate.validation import checked_files, problems_of_file, problems_of_project
from lmstack.result import Result
from lmstack.stack.project import shipped_config
from lmstack.stack.render import diff_config


@command("validate", "lm validate other-config.yaml")
def validate(
    context: Context,
    file: Annotated[
        Path | None, typer.Argument(help="Any LiteLLM config, compose file or Dockerfile; default: this stack's files.")
    ] = None,
) -> Result:
    """Check the files of the stack, or one other file.

    These are .env, models.yaml, the LiteLLM configuration, compose file and Dockerfile. The checks are strict and need no
    network. All problems are listed together; exit code 3. A setting that works but costs money or may surprise you is a
    warning.
    """
    project = context.project
    problems = problems_of_file(project, file) if file else problems_of_project(project)
    if any(not problem.warning for problem in problems):
        raise invalid(problems)
    checked = [str(file)] if file else checked_files(project)
    listed = [{"where": p.where, "what": p.what, "fix": p.fix} for p in problems]
    lines = (f"OK: {', '.join(checked) or 'defaults'}", *(f"warning: {p}" for p in problems))
    return Result("validate", {"checked": checked, "problems": [], "warnings": listed}, lines)


@command("render", "lm render --diff")
def render(
    context: Context,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 when the file is out of date.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; show what would change.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Write nothing; print the text.")] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Use the settings of the file in the repository: every provider.")
    ] = False,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Where the proxy runs."), OneOf(RUNTIMES)] = None,
) -> Result:
    """Write the configuration that LiteLLM reads.

    litellm-config.yaml is made from .env, models.yaml and the catalog. It never contains a key.
    """
    plan = None if shipped else planned(context.project, runtime_flags(runtime, False, None, None))
    text, messages = (plan.config, plan.plan.messages) if plan else (shipped_config(), ())
    file = context.project.config_file
    if stdout:
        return Result("render", {"text": text}, (text.rstrip("\n"),), messages)
    changes = diff_config(files.read(file) or "", text)
    data = {"file": str(file), "changed": bool(changes), "diff": changes if diff else None}
    if check or diff:
        state = "is out of date; run 'lm render' (or 'lm up')" if changes else "is up to date"
        shown = (changes.rstrip("\n"),) if diff and changes else ()
        return Result("render", data, (*shown, f"{file.name} {state}"), messages, Exit.CONFIG if changes else Exit.OK)
    context.project.require_stack_or_blank()
    context.project.require_own_config()
    files.write(file, text)
    return Result("render", data, (f"{file}: {'written' if changes else 'already up to date'}",), messages)
