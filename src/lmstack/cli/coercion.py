"""Commands and groups that import pydantic only for a value that needs it."""

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup


class LmCommand(TyperCommand):
    """A command that does not import pydantic for text options."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help included, which Typer makes only here."""
        return _lazily_coerced(super().get_params(ctx))


class LmGroup(TyperGroup):
    """A group of commands that does not import pydantic for text options."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help included, which Typer makes only here."""
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
