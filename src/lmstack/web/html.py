"""Render templates. Jinja is imported at the first page, in a thread, because the gateway starts without it."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmstack.web import shown

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return the HTML of a template. Blocks: call it in a thread."""
    return str(_environment().get_template(template).render(values))


def request_row(row: Mapping[str, Any]) -> str:
    """Return the HTML of one row of the list of requests."""
    module = _environment().get_template("parts.html").module
    return str(module.request_row(row))


@functools.cache
def files() -> frozenset[Path]:
    """Return the paths of all our files. No other path of a client is looked up."""
    return frozenset(path for path in STATIC.rglob("*") if path.is_file())


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters.update(shown.FILTERS)
    made.globals["static"] = static
    return made


@functools.cache
def static(name: str) -> str:
    """Return the address of a file. It changes with the file, so that a browser may keep the file."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/dashboard/static/{name}?v={digest}"
