"""Who is at the page: a key in a header, or a cookie that a login gave. Forms need a token of the session, and the operator.

A key with the role viewer may read. Its session holds the number of the key and the beginning of the hash. So it ends
when this secret is rotated or expires, and when the key is revoked.
"""

import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from lmstack import page_link
from lmstack.keys.key import Key
from lmstack.keys.secret import PREFIX, digest
from lmstack.ledger.key_queries import viewer
from lmstack.web.host import Host
from lmstack.web.marks import Marks
from lmstack.web.reading import Reader

MAX_FORM_BYTES = 16_000
_BEARER = "bearer "
_SHOWN = 8  # characters of a session's id, in the audit
_HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Session:
    """A login. ``id`` is "" for a program that sends the key itself; it needs no token.

    ``viewer``: the name of a viewer's key, "" for the operator.
    """

    id: str
    expires: int = 0
    viewer: str = ""

    @property
    def who(self) -> str:
        """Return the name of the session in the audit of keys: ``page:`` and the beginning of its id."""
        return f"page:{self.id[:_SHOWN]}" if self.id else "page"


class Sessions:
    """Begins, finds and ends logins."""

    def __init__(self, host: Host, reader: Reader) -> None:
        self._host, self._reader = host, reader
        self._marks = Marks(host.ledger.with_name("dashboard.db"))

    async def find(self, request: Request) -> Session | None:
        """Return the session of a request, or None."""
        if "authorization" in request.headers:
            return await self.of_key(_bearer(request))
        text, now = request.cookies.get(cookie_name(request), ""), time.time()
        found = page_link.read(self._key, page_link.SESSION, text, now) or page_link.read(
            self._key, page_link.VIEWER, text, now
        )
        if found is None or await self._reader.run(lambda: self._marks.is_used(found.id)):
            return None
        if found.kind == page_link.SESSION:
            return Session(found.id, found.expires)
        number, begins = found.about
        key = await self._reader.ask(lambda conn: viewer(conn, begins, int(number)))
        return None if key is None else Session(found.id, found.expires, key.name)

    async def of_key(self, given: str) -> Session | None:
        """Return who has a key: the operator, or a viewer; None for every other key."""
        if self.is_key(given):
            return Session("")
        key = await self._viewer(given)
        return None if key is None else Session("", viewer=key.name)

    async def _viewer(self, given: str) -> Key | None:
        if not given.startswith(PREFIX):
            return None
        try:
            return await self._reader.ask(lambda conn: viewer(conn, digest(given)))
        except FileNotFoundError:  # without a ledger there are no keys
            return None

    def is_key(self, given: str) -> bool:
        """Return whether a text is the operator's key. The time does not depend on where they differ."""
        return page_link.same(given, self._key)

    def may_scrape(self, request: Request) -> bool:
        """Return whether a request carries the token for /metrics, or the operator's key."""
        given = _bearer(request)
        return page_link.same(given, self._host.metrics_token) or self.is_key(given)

    async def may_try(self, request: Request) -> bool:
        """Return whether a login may be tried now: some failures in a minute, over all workers, close it."""
        return await self._reader.run(lambda: self._marks.has_room(address(request), time.time()))

    async def note_failure(self, request: Request) -> None:
        """Count a failed login."""
        self.note_refusal(request)
        await self._reader.run(lambda: self._marks.fail(address(request), time.time()))

    def note_refusal(self, request: Request) -> None:
        """Count a request without a login, as the gate does."""
        self._host.note("auth_error", address(request), request.url.path)

    async def use_link(self, text: str) -> bool:
        """Return whether a one-time link is valid, and mark it as used."""
        return await self._use(page_link.LINK, text)

    async def begin(self, request: Request, response: Response, given: str | None = None) -> None:
        """Give the browser the cookie of a new session. ``given``: the key of the login, None for a one-time link."""
        kind, about = page_link.SESSION, tuple[str, ...]()
        if given is not None and not self.is_key(given):
            key = await self._viewer(given)
            if key is None:  # it was revoked a moment ago
                return
            kind, about = page_link.VIEWER, (str(key.id), digest(given)[:_HASH_DIGITS])
        text = page_link.sign(self._key, kind, time.time(), page_link.SESSION_SECONDS, *about)
        response.set_cookie(
            cookie_name(request), text, max_age=page_link.SESSION_SECONDS, path="/", httponly=True, samesite="strict",
            secure=request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https",
        )  # fmt: skip

    async def end(self, request: Request, session: Session, response: Response) -> None:
        """End a session everywhere: a copy of its cookie is worth nothing afterwards."""
        await self._reader.run(lambda: self._marks.use(session.id, session.expires, time.time()))
        response.delete_cookie(cookie_name(request), path="/", httponly=True, samesite="strict")

    def token(self, session: Session) -> str:
        """Return the token that forms of this session carry."""
        return page_link.form_token(self._key, session.id)

    def is_own_form(self, request: Request, session: Session, form: dict[str, str]) -> bool:
        """Return whether a form was sent by our page. A program with the key in a header needs no token."""
        return is_same_origin(request) and (
            not session.id or page_link.same(form.get("token", ""), self.token(session))
        )

    def once(self) -> str:
        """Return a text for a form that makes a secret. It can be sent once."""
        return page_link.sign(self._key, page_link.ONCE, time.time(), page_link.SESSION_SECONDS)

    async def use_once(self, text: str) -> bool:
        """Return whether a form is sent for the first time, and mark it as sent."""
        return await self._use(page_link.ONCE, text)

    async def _use(self, kind: str, text: str) -> bool:
        now = time.time()
        found = page_link.read(self._key, kind, text, now)
        return found is not None and await self._reader.run(lambda: self._marks.use(found.id, found.expires, now))

    @property
    def _key(self) -> str:
        return self._host.master_key() or ""


def cookie_name(request: Request) -> str:
    """Return the name of the cookie. It holds the port: browsers send the cookies of one port to all ports of a host."""
    return f"lmstack_{request.url.port or request.url.scheme}"


def _bearer(request: Request) -> str:
    """Return the key or token of the header Authorization."""
    header = request.headers.get("authorization", "")
    return header[len(_BEARER) :] if header.lower().startswith(_BEARER) else header


def address(request: Request) -> str:
    """Return the client's address, "" when the server does not know it."""
    return request.client.host if request.client else ""


def is_same_origin(request: Request) -> bool:
    """Return whether a request comes from our own page, or from no page. Pages of other ports have the same cookies."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


async def read_form(request: Request) -> dict[str, str]:
    """Return the first value of each field of a URL-encoded form. The gate has bounded its size; a longer one is empty."""
    body = await request.body()
    if len(body) > MAX_FORM_BYTES:
        return {}
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
