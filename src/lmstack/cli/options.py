"""What the options of all commands share: fixed choices, completion of names, and limits of numbers."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer

from lmstack.errors import UsageError

RUNTIMES = ("auto", "docker", "local")
SINCE = Annotated[str, typer.Option("--since", help="How far back: 30m, 24h, 7d.")]
LIMIT = Annotated[int, typer.Option("--limit", "-n", min=0, max=1_000_000, help="How many at most.")]
_LARGEST = 2**63 - 1  # the largest number in SQLite


@dataclass(frozen=True, slots=True)
class OneOf:
    """Fixed choices of an option. In an ``Annotated[str, ...]``, Typer accepts only these words and completes them."""

    words: tuple[str, ...]


def typed(parameter: inspect.Parameter) -> Any:
    """Return the annotation of a parameter for Typer. ``OneOf`` becomes an enum; the command still gets text."""
    base, *notes = get_args(parameter.annotation) or (None,)
    fixed = next((note for note in notes if isinstance(note, OneOf)), None) if _annotated(parameter) else None
    if fixed is None:
        return parameter.annotation
    enum: Any = Enum(parameter.name, {word: word for word in fixed.words}, type=str)  # type: ignore[misc]
    rest = tuple(note for note in notes if note is not fixed)
    kind = enum | None if NoneType in get_args(base) else enum
    return Annotated.__class_getitem__((kind, *rest))  # type: ignore[attr-defined]


def _annotated(parameter: inspect.Parameter) -> bool:
    return get_origin(parameter.annotation) is Annotated


def plain(value: Any) -> Any:
    """Return the text of an enum value; commands use no enums."""
    return value.value if isinstance(value, Enum) else value


def check_numbers(options: dict[str, Any], spelled: dict[str, str]) -> None:
    """Raise UsageError for a number that is negative, not finite, or too large for the ledger.

    ``spelled`` gives each option as the user types it.
    """
    for name, value in options.items():
        if not isinstance(value, (int, float)):
            continue
        shown = f"'{spelled.get(name, name)}'"
        if not -_LARGEST <= value <= _LARGEST:  # nan is in no range
            raise UsageError(f"{shown} must be a number below {_LARGEST:.0e}", "give a smaller number")
        if value < 0:
            raise UsageError(f"{shown} cannot be {value:g}", "give 0 or a positive number")


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a model: those of the catalog with models.yaml, and the groups."""
    return _matching(incomplete, lambda: ["auto", "cheap", "standard", "premium", *_folder(ctx).catalog().models])


def request_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of one of the newest requests."""
    return _matching(incomplete, lambda: [row["id"] for row in _ledger_rows(ctx, "requests", limit=50)])


def dead_events(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of an event that can be sent again."""
    return _matching(
        incomplete, lambda: [row["event_id"] for row in _ledger_rows(ctx, "events", state="dead", limit=50)]
    )


def task_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a task that the ledger knows of."""
    return _matching(
        incomplete,
        lambda: {str(row["task_id"]): None for row in _ledger_rows(ctx, "requests", limit=500) if row["task_id"]},
    )


def key_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a key."""
    return _matching(incomplete, lambda: [row["name"] for row in _ledger_rows(ctx, "keys")])


def _matching(incomplete: str, names: Callable[[], Iterable[str]]) -> list[str]:
    """Return the names that begin like this. Never raises: an error would appear in the user's command line."""
    try:
        return [name for name in names() if name.startswith(incomplete) and name.isprintable()]
    except Exception:
        return []


def _folder(ctx: Any) -> Any:
    """Return the stack of --dir, which may come before the command."""
    from lmstack.stack.project import find_project

    given = None
    while ctx is not None and given is None:
        given, ctx = ctx.params.get("folder"), ctx.parent
    return find_project(Path(given) if given else None)


def _ledger_rows(ctx: Any, query: str, **arguments: Any) -> list[dict[str, Any]]:
    """Return rows of the local ledger file. No container is asked for a completion."""
    from lmstack.ledger import queries

    return list(queries.ask(_folder(ctx).ledger, query, arguments))
