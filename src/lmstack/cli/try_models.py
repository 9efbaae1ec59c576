"""test: call each model and show whether it answers."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.options import model_names
from lmstack.errors import Exit
from lmstack.operate.try_models import plan_trial, try_models
from lmstack.result import Result, table, usd

_Row = dict[str, Any]


@command("test", "lm test gpt-4o-mini claude-haiku-5-5")
def show_trial(
    context: Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Names of models. Default: every model that is served.", autocompletion=model_names),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option("--fallback", help="Make the first attempt at this model fail, to test its fallback.", autocompletion=model_names),
    ] = None,
) -> Result:  # fmt: skip
    """Send a small request to each model. These are real calls and cost a little. Exit code 5 when one fails."""
    trial = plan_trial(context.project, models or (), fallback)
    with _live_table(context, trial.names) as progress:
        rows = try_models(trial, progress)
    shown = [(*_cells(r), f"{r['ms']:.0f}", usd(r["cost_usd"]), r["error"] or "") for r in rows]
    lines = table(("MODEL", "RESULT", "ANSWERED BY", "MS", "COST", "ERROR"), shown, frozenset({3, 4}))
    failed = tuple(f"{row['model']}: {row['error']}" for row in rows if not row["ok"])
    data = {"models": rows, "failed": len(failed)}
    return Result("test", data, lines, exit=Exit.UNHEALTHY if failed else Exit.OK, errors=failed)


def _cells(row: _Row) -> tuple[str, str, str]:
    return row["model"], "ok" if row["ok"] else "FAILED", row["served_by"] or "-"


@contextlib.contextmanager
def _live_table(context: Context, names: list[str]) -> Iterator[Callable[[list[_Row]], None]]:
    """Show, on a terminal, a line for each model and fill it in when its answer comes. The result replaces this table."""
    if context.quiet or context.as_json or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    def drawn(rows: list[_Row]) -> Table:
        known, made = {row["model"]: row for row in rows}, Table(box=None)
        for title in ("MODEL", "RESULT", "ANSWERED BY", "MS"):
            made.add_column(title)
        for name in names:
            row = known.get(name)
            made.add_row(*((name, "…", "", "") if row is None else (*_cells(row), f"{row['ms']:.0f}")))
        return made

    with Live(drawn([]), console=Console(stderr=True), transient=True) as live:
        yield lambda rows: live.update(drawn(rows), refresh=True)
