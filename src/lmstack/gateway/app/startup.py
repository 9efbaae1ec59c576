"""Start lmstack inside a worker of the proxy.

LITELLM_WORKER_STARTUP_HOOKS names ``install``. LiteLLM calls it once in each worker, before it loads the configuration.
"""

import asyncio
import logging
import os
from collections.abc import Mapping

from starlette.types import ASGIApp

from lmstack.addresses import is_loopback
from lmstack.gateway import worker
from lmstack.gateway.app import litellm_patches, page, status
from lmstack.gateway.app.gate import RequestGate
from lmstack.gateway.app.logfilter import LITELLM_LOGGERS, RedactionFilter
from lmstack.gateway.app.middleware import GatewayMiddleware
from lmstack.gateway.app.recording import record_refused
from lmstack.gateway.app.refusals import Refusals
from lmstack.gateway.calls.current import body
from lmstack.gateway.stock import live, lookup, uses
from lmstack.key_strength import weakness

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0


def install() -> None:
    """Add our middleware, routes, patches and log filter to LiteLLM, and open the ledger. An error here ends the worker."""
    refuse_weak_key(os.environ)
    drop_empty_variables()
    keep_openai_address()
    if not litellm_patches.wrap_app(_wrapped):
        return
    lookup.remember_router()
    live.remember_settings()
    litellm_patches.add_routes_first(status.own_routes())
    litellm_patches.run_before_shutdown(flush)
    litellm_patches.disable_redis_retries()
    litellm_patches.keep_error_details()
    litellm_patches.keep_gemini_address()
    litellm_patches.report_unprocessable_requests()
    litellm_patches.refuse_foreign_redirects()
    litellm_patches.do_not_import_again()
    litellm_patches.refuse_foreign_session_redirects()
    apply_log_level(os.environ.get("LITELLM_LOG_LEVEL", "INFO").upper())
    redaction = RedactionFilter(body.get)
    for name in litellm_loggers():
        logging.getLogger(name).addFilter(redaction)
    worker.get().keyring.start()
    worker.get().alerting.start()
    lookup.report_when_loaded()


def _wrapped(app: ASGIApp) -> ASGIApp:
    """Return LiteLLM's app behind our middleware: first the gate, then the middleware that follows a request until it ends."""
    note, keyring = Refusals().note, lambda: worker.get().keyring
    served = page.page(os.environ, note)
    return RequestGate(GatewayMiddleware(app), live.master_key, note, record_refused, keyring=keyring, page=served)


async def flush() -> None:
    """Wait for LiteLLM's queued log events, then commit to the ledger and release our leases.

    On SIGTERM, LiteLLM drops the log events that are still in its queue.
    """
    try:
        flush_litellm = lookup.find(uses.LOGGING_QUEUE)
        if flush_litellm is not None:
            await asyncio.wait_for(flush_litellm(), FLUSH_SECONDS)
        await asyncio.to_thread(worker.get().close, FLUSH_SECONDS)
    except Exception:
        log.exception("lmstack: the worker stops, and some records may not be written to the ledger")


def refuse_weak_key(environ: Mapping[str, str]) -> None:
    """Raise RuntimeError when other machines can reach the gateway and could guess its key.

    `lm` checks this before a start. Plain `docker compose up` does not.
    """
    what = weakness(environ.get("LITELLM_MASTER_KEY", ""))
    host = environ.get("LITELLM_HOST") or "127.0.0.1"
    if what and not is_loopback(host):
        text = f"lmstack: {what} is refused while LITELLM_HOST is {host}. Choose a strong key with: lm key rotate"
        log.error(text)
        raise RuntimeError(text)


def drop_empty_variables() -> None:
    """Remove empty environment variables. Docker Compose sets each unset variable to "", and LiteLLM reads that as a value."""
    for name in [name for name, value in os.environ.items() if value == ""]:
        del os.environ[name]


def keep_openai_address() -> None:
    """Set OPENAI_BASE_URL to OPENAI_API_BASE. Moderations read only the first one, and would go to OpenAI itself."""
    address = os.environ.get("OPENAI_API_BASE")
    if address:
        os.environ["OPENAI_BASE_URL"] = address


def litellm_loggers() -> set[str]:
    """Return the names of LiteLLM's loggers: those that we know, and any other that a new release makes."""
    made = (name for name in logging.root.manager.loggerDict if name.lower().startswith("litellm"))
    return {*LITELLM_LOGGERS, *made}


def apply_log_level(level: str) -> None:
    """Set the level of all loggers. INFO changes nothing.

    INFO is LiteLLM's default: access lines, warnings and errors. LiteLLM's own INFO lines use a fifth more CPU.
    """
    if level == "INFO":
        return
    for name in (*LITELLM_LOGGERS, "lmstack", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(level)
