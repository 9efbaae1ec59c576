"""Post leased events to TaskMaster or a webhook, and return the outcomes. No ledger, no thread of its own."""

import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from lmstack.delivery.availability import PAUSE_AFTER_GONE_SECONDS
from lmstack.delivery.contract import Target, batch_post, headers_for
from lmstack.delivery.transport import DeadlineTransport
from lmstack.delivery.webhooks import SLACK, slack_body
from lmstack.ledger.outbox import LeasedEvent, RunOutcome
from lmstack.ledger.retries import Failure

TIMEOUT_SECONDS = 15.0
# One post with its whole answer. A run begins no post after RUN_SECONDS. Both together must be shorter than a lease.
POST_SECONDS = 30.0
RUN_SECONDS = 20.0
MAX_ANSWER_BYTES = 64_000
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class Poster:
    """Posts runs of events. ``stopping`` returns whether the sender is being closed."""

    def __init__(self, target: Target, stopping: Callable[[], bool]) -> None:
        self.target, self.stopping = target, stopping
        _keep_out_of_the_log(target.url)

    def client(self, connections: int) -> httpx.Client:
        """Return one HTTP client for all posts. A new client reads the certificate store, which takes longer than a post."""
        # Events go to the address in the settings, not through a proxy in the environment: trust_env is off.
        # Redirects are not followed, so that the key goes to no other host.
        transport = DeadlineTransport(POST_SECONDS, connections)
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        return httpx.Client(
            timeout=TIMEOUT_SECONDS, transport=transport, trust_env=False, follow_redirects=False, cookies=no_cookies
        )

    def run(self, client: httpx.Client, job: list[list[LeasedEvent]]) -> list[RunOutcome]:
        """Post the events of one lane, one after the other, up to the first failure."""
        (run,) = job
        until = time.monotonic() + RUN_SECONDS
        for place, event in enumerate(run):
            if time.monotonic() > until or (self.stopping() and place):
                return [RunOutcome(run, place)]
            failure = self._post_one(client, event)
            if failure is not None:
                return [RunOutcome(run, place, failure)]
        return [RunOutcome(run, len(run))]

    def batch(self, client: httpx.Client, job: list[list[LeasedEvent]]) -> list[RunOutcome]:
        """Post several lanes together."""
        return self._lanes(client, job, time.monotonic() + RUN_SECONDS)

    def _lanes(self, client: httpx.Client, runs: list[list[LeasedEvent]], until: float) -> list[RunOutcome]:
        """Post whole lanes together. Halve a batch that is refused for good, until only the event that causes it is left."""
        if time.monotonic() > until:
            return [RunOutcome(run, 0) for run in runs]
        events = [event for run in runs for event in run]
        failure = self._post_batch(client, events)
        if failure is None:
            return [RunOutcome(run, len(run)) for run in runs]
        if not failure.final or len(events) == 1:
            return [RunOutcome(run, 0, failure) for run in runs]
        if len(runs) > 1:
            half = len(runs) // 2
            return self._lanes(client, runs[:half], until) + self._lanes(client, runs[half:], until)
        return [self._halves(client, runs[0], until)]

    def _halves(self, client: httpx.Client, run: list[LeasedEvent], until: float) -> RunOutcome:
        """Post one lane in two halves. The second half may only follow the whole first half."""
        half = len(run) // 2
        (first,) = self._lanes(client, [run[:half]], until)
        if first.failure is not None or first.delivered < half:
            return RunOutcome(run, first.delivered, first.failure)
        (second,) = self._lanes(client, [run[half:]], until)
        return RunOutcome(run, half + second.delivered, second.failure)

    def _post_one(self, client: httpx.Client, event: LeasedEvent) -> Failure | None:
        if self.target.form != SLACK:
            return self._post(client, event.payload, headers_for(self.target, event, time.time()))
        try:
            body = slack_body(event.payload)
        except (ValueError, AttributeError):
            return Failure(None, "the event's payload is no alert", final=True)
        return self._post(client, body, {"content-type": "application/json"})

    def _post_batch(self, client: httpx.Client, events: list[LeasedEvent]) -> Failure | None:
        try:
            body, headers = batch_post(self.target, events, time.time())
        except ValueError:  # the halves show which event it is
            return Failure(None, "the event's payload is not JSON", final=True)
        return self._post(client, body, headers)

    def _post(self, client: httpx.Client, body: str, headers: dict[str, str]) -> Failure | None:
        sent = {**headers, "accept-encoding": "identity"}
        # TASKMASTER_API_KEY wins over a user and password in the address.
        auth = httpx.Auth() if self.target.api_key else httpx.USE_CLIENT_DEFAULT
        try:
            with client.stream("POST", self.target.url, content=body.encode(), headers=sent, auth=auth) as answer:
                retry_after = seconds_to_wait(answer.headers.get("retry-after"), time.time())
                _discard(answer)
        except Exception as error:  # httpx's own errors, and those of its parsers over a broken answer
            return failure_of(error, self.target.variable)
        status = answer.status_code
        if 200 <= status < 300:
            return None
        final = 400 <= status < 500 and status not in RETRIED and status != 410
        return Failure(
            status,
            _status_text(status, self.target.variable),
            PAUSE_AFTER_GONE_SECONDS if status == 410 else retry_after,
            final,
        )


def _status_text(status: int, variable: str) -> str:
    if 300 <= status < 400 and status != 304:
        return f"HTTP {status}: redirects are not followed; put the final address into {variable}"
    return f"HTTP {status}"


def failure_of(error: Exception, variable: str = "TASKMASTER_API_URL") -> Failure:
    """Return the failure for a post that raised; it is tried again later.

    Only these texts are kept. Others may contain a key or an address with a password.
    """
    name = type(error).__name__
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return Failure(None, f"{name}: {variable} must be an address that begins with http:// or https://")
    if isinstance(error, httpcore.LocalProtocolError | UnicodeError):
        return Failure(None, f"{name}: a header cannot be sent; TASKMASTER_API_KEY may have a wrong character in it")
    if isinstance(
        error, httpcore.NetworkError | httpcore.TimeoutException | httpcore.RemoteProtocolError | ssl.SSLError
    ):
        return Failure(None, f"{name}: {error}")
    return Failure(None, name)


_hidden: set[str] = set()


def _keep_out_of_the_log(url: str) -> None:
    """Let httpx not log posts to this address: it may be a password."""
    with contextlib.suppress(httpx.InvalidURL):
        _hidden.add(str(httpx.URL(url)))
    logging.getLogger("httpx").addFilter(_shows_no_target)


def _shows_no_target(record: logging.LogRecord) -> bool:
    text = record.getMessage()  # not its arguments: a filter of LiteLLM may have written them into the text before
    return not any(address in text for address in _hidden)


def _discard(answer: httpx.Response) -> None:
    """Read the body, so that the connection can be used again, but at most MAX_ANSWER_BYTES."""
    size = 0
    # Only the status counts. An event that was accepted is not sent again because of a broken body.
    with contextlib.suppress(Exception):
        for chunk in answer.iter_raw():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                return


def seconds_to_wait(header: str | None, now: float) -> float | None:
    """Return the seconds that a header ``Retry-After`` asks for, None without a usable one."""
    value = (header or "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None
