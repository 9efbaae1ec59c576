"""The forms of keys on the page: make, edit, raise, rotate and revoke a key. For the operator only.

They send the orders of `lm key` (keys/orders.py), so both have the same checks and the same audit. A secret is in one answer,
which no browser may keep.
"""

import json
import time
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lmstack.keys import orders, parse
from lmstack.keys.orders import Order
from lmstack.keys.text import OPTIONS
from lmstack.ledger import queries
from lmstack.ledger.keys import KeyChangeError
from lmstack.web import html
from lmstack.web.host import Host
from lmstack.web.pages import Pages
from lmstack.web.reading import Reader
from lmstack.web.session import Session, Sessions
from lmstack.web.views import MissingError

KEYS = "/dashboard/keys"
_SENT_BEFORE = "This form was sent before, so no further secret was made. Load the page again for a new one."
Form = Mapping[str, str]


class KeyForms:
    """Answers POST /dashboard/keys and /dashboard/keys/NAME/ACTION. The caller has checked the session and its token."""

    def __init__(self, host: Host, reader: Reader, sessions: Sessions, pages: Pages) -> None:
        self._host, self._reader, self._sessions, self._pages = host, reader, sessions, pages

    async def create(self, request: Request, session: Session, form: Form) -> Response:
        """Make a key and show its secret."""
        name = form.get("name", "").strip()
        facts = await self._host.facts()
        try:
            if name in facts.declared_keys:
                raise ValueError(f"{orders.declared_text(name)}, so it is made with: lm key create {name}")
            order = orders.create(name, _options(form), _given(form, "expires"), time.time())
            return await self._secret(session, form, order)
        except (ValueError, KeyChangeError) as error:
            return await self._wrong(error, KEYS)

    async def change(self, request: Request, session: Session, form: Form) -> Response:
        """Change one key: edit, raise, rotate or revoke it."""
        name, action = request.path_params["name"], request.path_params["action"]
        try:
            if action == "rotate":
                return await self._secret(session, form, orders.rotate(name, _given(form, "keep"), time.time()))
            await self._carry_out(session, await self._order(action, name, form))
        except (ValueError, KeyChangeError) as error:
            return await self._wrong(error, f"{KEYS}/{quote(name)}", 404 if isinstance(error, MissingError) else 400)
        return RedirectResponse(f"{KEYS}/{quote(name)}?{urlencode({'done': action})}", 303)

    async def _order(self, action: str, name: str, form: Form) -> Order:
        if action == "revoke":
            return orders.revoke(name)
        if action not in ("edit", "raise"):
            raise MissingError(f"a key cannot be changed by '{action}'")
        found = await self._reader.ask(lambda conn: queries.QUERIES["keys"](conn, name=name))
        if not found:
            raise MissingError(f"there is no key '{name}'")
        if action == "raise":
            return orders.raise_budgets(found[0], form.get("usd", ""), form.get("until", ""), time.time())
        changed = _changed(form)
        expires = changed.pop("expires", None)
        return orders.edit(name, _options(changed), expires, time.time(), found[0]["declared"])

    async def _secret(self, session: Session, form: Form, order: Order) -> Response:
        if not await self._sessions.use_once(form.get("once", "")):
            raise ValueError(_SENT_BEFORE.rstrip("."))
        await self._carry_out(session, order)
        values = {"name": order.name, "secret": order.secret, "is_new": order.action == "create"}
        answer = HTMLResponse(await self._reader.run(lambda: html.render("secret.html", values)))
        answer.headers["cache-control"] = "no-store"
        return answer

    async def _carry_out(self, session: Session, order: Order) -> None:
        """Write a change into the ledger, in a thread. Raises KeyChangeError."""
        values = {"action": order.action, "name": order.name, "actor": session.who, **order.values}
        await self._reader.run(lambda: queries.ask(self._reader.path, "key_change", values))

    async def _wrong(self, error: Exception, back: str, status: int = 400) -> Response:
        text = str(error).removeprefix("--")
        if text.partition(" ")[0].isalpha():
            text = text[:1].upper() + text[1:]
        return await self._pages.plain(status, "Nothing was changed", f"{text}.", back=back)  # fmt: skip


def _given(form: Form, field: str) -> str | None:
    """Return a field, None when it is empty."""
    return form.get(field, "").strip() or None


def _options(form: Form) -> dict[str, str | list[str] | None]:
    """Return the fields of a form as options of `lm key`."""
    found: dict[str, str | list[str] | None] = {name: _given(form, name) for name in OPTIONS}
    if isinstance(found["budget"], str):
        found["budget"] = [part for part in found["budget"].replace(",", " ").split() if part]
    return found


def _changed(form: Form) -> dict[str, str]:
    """Return the fields that are not as the page has shown them; ``none`` for one that was emptied.

    What was not touched is not sent: somebody else may have changed it meanwhile.
    """
    try:
        before = json.loads(form.get("before", ""))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise ValueError("this form is not complete")
    fields = {name: form.get(name, "").strip() for name in (*OPTIONS, "expires") if name in before}
    return {name: value or parse.NONE for name, value in fields.items() if value != before[name]}
