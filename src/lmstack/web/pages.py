"""The HTML of the page: one handler for all views, from the data that /api/v1 sends too."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lmstack.ledger import queries, usage
from lmstack.ledger.filters import STATUSES
from lmstack.ledger.migrations import DIMENSIONS
from lmstack.web import html, one_request, overview, views
from lmstack.web.host import Host
from lmstack.web.key_views import more_of_key, more_of_keys, show_key, show_keys
from lmstack.web.reading import Reader
from lmstack.web.session import Session, Sessions
from lmstack.web.span import CHOICES, Span, SpanError, span_from
from lmstack.web.views import Ask, MissingError, View, ViewError

NAVIGATION = (
    ("/dashboard", "Overview"), ("/dashboard/requests", "Requests"), ("/dashboard/models", "Models"),
    ("/dashboard/keys", "Keys"), ("/dashboard/budgets", "Budgets"), ("/dashboard/errors", "Errors"), ("/dashboard/outbox", "Outbox"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """A view with its template. ``more`` adds what only the HTML needs. ``fresh``: every load reads the ledger again."""

    template: str
    view: View
    more: Callable[[sqlite3.Connection, Ask, dict[str, Any]], dict[str, Any]] | None = None
    fresh: bool = False


def _overview(conn: sqlite3.Connection, ask: Ask, data: dict[str, Any]) -> dict[str, Any]:
    show = ask.one_of("show", tuple(views.MEASURES), "cost_usd")
    by = ask.one_of("by", usage.GROUPINGS, "model")
    rows = usage.usage(conn, by, ask.span.since, ask.span.until)
    over_time: dict[str, Any] = {"at": [], "step": 0, "series": []}
    if by != "day":
        over_time = overview.chart(conn, by, ask.span)
    series = [{"name": one["name"], "values": one[show]} for one in over_time["series"]]
    text = f"last {CHOICES.get(ask.span.text, ask.span.text)}" if ask.span.text else "selected span"
    return {
        "by": by, "show": show, "measures": views.MEASURES, "groupings": usage.GROUPINGS, "rows": rows, "span_name": text,
        "chart": {"at": over_time["at"], "step": over_time["step"], "series": series},
    }  # fmt: skip


def _requests(conn: sqlite3.Connection, ask: Ask, data: dict[str, Any]) -> dict[str, Any]:
    wanted, rows = views.filter_of(ask), data["requests"]
    return {
        "groups": tuple(DIMENSIONS), "given": wanted.given, "statuses": STATUSES, "filter_query": urlencode(wanted.given),
        "only_span": urlencode(ask.span.query), "more": len(rows) == views.SHOWN_REQUESTS,
        "older": int(rows[-1]["started_at"]) if rows else 0,
    }  # fmt: skip


def _request(conn: sqlite3.Connection, ask: Ask, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "link": lambda **filters: urlencode({"since": "30d", **filters}),
        "demands": one_request.demands(data["request"]),
    }


PAGES = {
    "": Page("overview.html", views.show_overview, _overview),
    "requests": Page("requests.html", views.show_requests, _requests),
    "requests/{id}": Page("request.html", views.show_request, _request),
    "models": Page("models.html", views.show_models),
    "keys": Page("keys.html", show_keys, more_of_keys, fresh=True),
    "keys/{id}": Page("key.html", show_key, more_of_key, fresh=True),
    "budgets": Page("budgets.html", views.show_budgets),
    "errors": Page("errors.html", views.show_errors),
    "outbox": Page("outbox.html", views.show_events),
}


_DONE = {
    "edit": "The key is changed, on every worker within a second.",
    "raise": "The budgets are raised.",
    "revoke": "The key is revoked. Every worker refuses it within a second.",
}


class Pages:
    """Answers GET /dashboard/… for a session, and the forms of the page."""

    def __init__(self, host: Host, reader: Reader, sessions: Sessions) -> None:
        self._host, self._reader, self._sessions = host, reader, sessions

    async def show(self, request: Request, page: Page, session: Session) -> Response:
        """Answer one view as HTML."""
        query = {**request.query_params, **request.path_params}
        try:
            ask = Ask(span_from(query, time.time()), query, await self._host.facts())
            common = {
                "here": request.url.path, "views": NAVIGATION, "token": self._sessions.token(session), "span": ask.span,
                "choices": CHOICES, "query": _links(query, ask.span), "notice": _notice(query),
                "viewer": session.viewer, "once": "" if session.viewer else self._sessions.once(),
            }  # fmt: skip

            def work(conn: sqlite3.Connection) -> bytes:
                data = page.view(conn, ask)
                more = page.more(conn, ask, data) if page.more else {}
                return html.render(page.template, {**data, **common, **more}).encode()

            same = (session.id, session.viewer, request.url.path, str(request.query_params))
            text = await self._reader.ask(work, None if page.fresh else same)
        except (SpanError, ViewError) as error:
            return await self.plain(400, "This address is wrong", f"{error}.")
        except MissingError as error:
            return await self.plain(404, "Not found", str(error))
        return HTMLResponse(text)

    async def plain(self, status: int, title: str, text: str = "", **values: Any) -> Response:
        """Return a page without navigation: a login, an error."""
        shown = {
            "title": title,
            "text": text,
            "wrong": status >= 400,
            "go_to": None,
            "back": None,
            "form": None,
            "next": "",
            **values,
        }
        return HTMLResponse(await self._reader.run(lambda: html.render("plain.html", shown)), status)

    async def replay(self, request: Request, session: Session, form: Mapping[str, str]) -> Response:
        """Make dead events pending again: one, or all."""
        arguments = {"event_id": form["event"]} if form.get("event") else {}
        done = await self._reader.run(lambda: queries.ask(self._reader.path, "replay", arguments))
        return RedirectResponse(f"/dashboard/outbox?replayed={done[0]['replayed']}", 303)


def _links(query: Mapping[str, str], span: Span) -> Callable[..., str]:
    """Return a function that makes the query of a link: that of this page with some parameters changed, None removes one."""

    def link(**changes: Any) -> str:
        kept = {
            name: value for name, value in query.items() if name not in ("id", "format", "replayed", "done") and value
        }
        if changes.get("since"):
            kept = {name: value for name, value in kept.items() if name not in ("from", "to")}
        elif not {"since", "from", "to"} & kept.keys():
            kept |= span.query
        merged = {**kept, **changes}
        return urlencode({name: value for name, value in merged.items() if value is not None})

    return link


def _notice(query: Mapping[str, str]) -> str:
    replayed = query.get("replayed", "")
    done = _DONE.get(query.get("done", ""))
    if done:
        return done
    return f"{replayed} events wait again and are sent in their order." if replayed.isdigit() else ""
