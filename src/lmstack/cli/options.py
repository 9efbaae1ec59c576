"""What the options of every command share: fixed choices, completion of names, values that no command can use."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from lmstack.errors import UsageError

RUNTIMES = ("auto", "docker", "local")
SINCE = Annotated[str, typer.Option("--since", help="How far back: 30m, 24h, 7d.")]
LIMIT = Annotated[int, typer.Option("--limit", "-n", min=0, max=1_000_000, help="How many at most.")]
_LARGEST = 2**63 - 1  # the largest number in SQLite


@dataclass(frozen=True, slots=True)
class OneOf:
    """Stands in an ``Annotated[str, ...]``: Typer takes one of these words alone, and completes them."""

    words: tuple[str, ...]


class LmCommand(TyperCommand):
    """A command whose text options need no pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _lazily_coerced(super().get_params(ctx))


class LmGroup(TyperGroup):
    """A group of commands whose text options need no pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _lazily_coerced(super().get_params(ctx))


class _Coercion:
    """Typer's conversion of one parameter, made only for a value that needs it.

    Typer converts by pydantic. Its import takes 90 ms of CPU (`lm models`: 250 instead of 340), also for an option that was
    not given. Nothing given and text for a text option need no conversion.
    """

    def __init__(self, parameter: Any, stock: Callable[[], Any]) -> None:
        self.parameter, self.stock = parameter, stock

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = self.parameter.nargs != 1 or self.parameter.multiple
        if value is None:
            return () if many else None
        if isinstance(value, str) and not many and self.parameter.type_descriptor.annotation is str:
            return value
        return self.stock().coerce(value, param=param, ctx=ctx)


def _lazily_coerced(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        stock = getattr(parameter, "get_runtime_param", None)  # older releases of Typer have no pydantic
        if stock is not None and "get_runtime_param" not in vars(parameter):
            coercion = _Coercion(parameter, stock)
            parameter.get_runtime_param = lambda coercion=coercion: coercion
    return parameters


def typed(parameter: inspect.Parameter) -> Any:
    """A parameter's annotation for Typer: with ``OneOf``, an enum in place of text. The command gets plain text."""
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
    """An enum's word as text: a command knows no enums."""
    return value.value if isinstance(value, Enum) else value


def checked(options: dict[str, Any], spelled: dict[str, str]) -> None:
    """UsageError for a number that no command can use: negative, not finite, or larger than a ledger holds.
    ``spelled`` gives each option as it is typed."""
    for name, value in options.items():
        if not isinstance(value, (int, float)):
            continue
        shown = f"'{spelled.get(name, name)}'"
        if not -_LARGEST <= value <= _LARGEST:  # nan is in no range
            raise UsageError(f"{shown} must be a number below {_LARGEST:.0e}", "give a smaller number")
        if value < 0:
            raise UsageError(f"{shown} cannot be {value:g}", "give 0 or more")


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a model: those of the catalog with models.yaml, and the groups."""
    return _beginning(incomplete, lambda: ["auto", "cheap", "standard", "premium", *_folder(ctx).catalog().models])


def request_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of one of the newest requests."""
    return _beginning(incomplete, lambda: [row["id"] for row in _asked(ctx, "requests", limit=50)])


def dead_events(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of an event that can be sent again."""
    return _beginning(incomplete, lambda: [row["event_id"] for row in _asked(ctx, "events", state="dead", limit=50)])


def task_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a task that the ledger knows of."""
    return _beginning(
        incomplete, lambda: {str(row["task_id"]): None for row in _asked(ctx, "requests", limit=500) if row["task_id"]}
    )


def _beginning(incomplete: str, names: Callable[[], Iterable[str]]) -> list[str]:
    """The names that begin so. Completion never fails: an error would stand in the middle of the user's line."""
    try:
        return [name for name in names() if name.startswith(incomplete) and name.isprintable()]
    except Exception:
        return []


def _folder(ctx: Any) -> Any:
    """The stack's folder, also where --dir comes first."""
    from lmstack.stack.project import find_project

    given = None
    while ctx is not None and given is None:
        given, ctx = ctx.params.get("folder"), ctx.parent
    return find_project(Path(given) if given else None)


def _asked(ctx: Any, query: str, **arguments: Any) -> list[dict[str, Any]]:
    """Rows of the ledger on this machine's disk; a container is not started for a completion."""
    from lmstack.ledger import queries

    return list(queries.ask(_folder(ctx).ledger, query, arguments))
