"""The JSON and CSV of each view, under /api/v1. The keys are those of the command line (docs/json.md)."""

import csv
import io
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmstack.ledger.cells import without_formula
from lmstack.web.host import Host
from lmstack.web.key_views import show_key, show_keys
from lmstack.web.reading import Reader
from lmstack.web.span import SpanError, span_from
from lmstack.web.views import VIEWS as _VIEWS
from lmstack.web.views import Ask, MissingError, View, ViewError, show_request

VIEWS: dict[str, tuple[View, str | None]] = {**_VIEWS, "keys": (show_keys, "keys")}
SINGLE: dict[str, View] = {"requests": show_request, "keys": show_key}


class Api:
    """Answers GET /api/v1/NAME for callers with the key or a session."""

    def __init__(self, host: Host, reader: Reader) -> None:
        self._host, self._reader = host, reader

    async def index(self, request: Request) -> Response:
        """List what there is."""
        names = [*VIEWS, *(f"{name}/{{id}}" for name in SINGLE)]
        return JSONResponse({"version": 1, "views": [f"/api/v1/{name}" for name in names], "csv": "?format=csv"})

    async def view(self, request: Request) -> Response:
        """Answer one view."""
        found = VIEWS.get(request.path_params["view"])
        if found is None:
            return problem(404, "not_found", f"There is no such view; these are: {', '.join(VIEWS)}.")
        return await self._answer(request, *found)

    async def one(self, request: Request) -> Response:
        """Answer one request, or one key, of the ledger."""
        found = SINGLE.get(request.path_params["view"])
        if found is None:
            return problem(404, "not_found", "There is no such view.")
        return await self._answer(request, found, None)

    async def _answer(self, request: Request, view: View, listed: str | None) -> Response:
        query = {**request.query_params, **request.path_params}
        as_csv = query.get("format") == "csv"
        try:
            if as_csv and not listed:
                raise ViewError("this view has no CSV")
            ask = Ask(span_from(query, time.time()), query, await self._host.facts())

            def work(conn: Any) -> bytes:
                # The rows end here, in the thread: to free 10,000 of them would hold the event loop for milliseconds.
                data = view(conn, ask)
                return (csv_of(data[listed]) if as_csv and listed else json_of(data)).encode()

            text = await self._reader.ask(work, (request.url.path, str(request.query_params)))
        except (SpanError, ViewError) as error:
            return problem(400, "invalid_request_error", f"{error}.")
        except MissingError as error:
            return problem(404, "not_found", str(error))
        if not as_csv:
            return Response(text, media_type="application/json")
        name = f"lmstack-{query['view']}.csv"
        return Response(text, media_type="text/csv", headers={"content-disposition": f'attachment; filename="{name}"'})


def problem(status: int, kind: str, message: str) -> JSONResponse:
    """Return an error in the form of the gateway's other errors."""
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)


def json_of(data: Mapping[str, Any]) -> str:
    """Return a view as JSON. Row by row: one call for 10,000 rows keeps the interpreter, and so the event loop, for its whole time."""
    parts = []
    for name, value in data.items():
        text = f"[{', '.join([_json(row) for row in value])}]" if isinstance(value, list) else _json(value)
        parts.append(f"{json.dumps(name)}: {text}")
    return f"{{{', '.join(parts)}}}"


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def csv_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV. A text that a spreadsheet would run gets an apostrophe before it."""
    listed = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(listed[0]) if listed else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in listed)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else without_formula(value)
