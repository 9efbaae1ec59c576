"""models: list what can be served."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.errors import Exit
from lmstack.operate.model_list import model_rows, status_of
from lmstack.result import Result, table

_HEADER = ("MODEL", "TIER", "IN $/M", "OUT $/M", "CONTEXT", "CAN", "STATUS")
_NUMBERS = frozenset({1, 2, 3, 4})


@command("models", "lm models --check")
def models(
    context: Context,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with LiteLLM's price map; exit 1 when they differ.")
    ] = False,
) -> Result:
    """List every model that lmstack knows.

    Shows provider, tier, prices, context, abilities, lifecycle, and whether the key is set.
    """
    if check:
        return _compared(context)
    catalog = context.project.catalog()
    rows = model_rows(catalog, context.project.settings(None, catalog))
    shown = [
        (
            r["name"], str(r["tier"] or "-"), _price(r["input_usd_per_million"]), _price(r["output_usd_per_million"]),
            str(r["context"] or "?"), "?" if r["can"] is None else " ".join(r["can"]) or "-", status_of(r),
        )
        for r in rows
    ]  # fmt: skip
    return Result("models", {"models": rows}, table(_HEADER, shown, _NUMBERS))


def _compared(context: Context) -> Result:
    from lmstack.catalog.prices import differences, load_price_map
    from lmstack.releases.pins import LITELLM_VERSION
    from lmstack.runtime.installed_by import install_command

    found = differences(context.project.catalog(), load_price_map(install_command()))
    if not found:
        line = f"The catalog agrees with the price map of LiteLLM {LITELLM_VERSION}."
        return Result("models", {"differences": found}, (line,))
    shown = [(d["model"], d["field"], str(d["catalog"]), str(d["litellm"])) for d in found]
    lines = table(("MODEL", "FIELD", "CATALOG", "LITELLM"), shown)
    return Result("models", {"differences": found}, lines, exit=Exit.FAILED)


def _price(amount: object) -> str:
    return "?" if amount is None else "free" if amount == 0 else f"{amount:g}"
