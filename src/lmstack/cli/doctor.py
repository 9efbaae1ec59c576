"""doctor: find what could keep the gateway from working."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, command
from lmstack.errors import Exit
from lmstack.operate.archive import new_file
from lmstack.operate.checks import FAIL, OK, Finding
from lmstack.operate.diagnose import diagnose
from lmstack.operate.report import write_report
from lmstack.result import Result, naming_folder, table


@command("doctor", "lm doctor --deep")
def doctor(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also test each provider's key. Lists its models; costs nothing.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write an archive for a bug report. Keys are removed.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --report replace an existing file.")] = False,
) -> Result:  # fmt: skip
    """Check everything that the gateway needs. Each problem comes with its solution. Exit code 5 when a check fails."""
    project = context.project
    target = new_file(report, force) if report else None
    found = diagnose(project, deep)
    found = [replace(f, fix=naming_folder(f.fix, context.dir_flag)) for f in found]
    data: dict[str, Any] = {
        "findings": [{"name": f.name, "status": f.status, "what": f.what, "why": f.why, "fix": f.fix} for f in found],
        "report": str(report) if report else None,
    }
    lines = _lines(found)
    if target:
        write_report(project, target, data)
        lines += ["", f"The report is in {report}. Read it before you send it."]
    failed = tuple(_problem(f) for f in found if f.status == FAIL)
    return Result("doctor", data, tuple(lines), exit=Exit.UNHEALTHY if failed else Exit.OK, errors=failed)


def _lines(found: list[Finding]) -> list[str]:
    problems = [_problem(f) for f in found if f.status != OK]
    rows = table(("", "CHECK", "FOUND"), [(f.status, f.name, f.what) for f in found])
    return [*rows, *(["", *problems] if problems else [])]


def _problem(f: Finding) -> str:
    """Return a problem in one line: what was found, why it matters, and the command that solves it."""
    return " ".join(f"{f.name}: {f.what}: {f.why}. Fix: {f.fix}".split())
