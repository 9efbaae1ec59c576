"""Record the calls that our hooks do not see. Such a row has no attempts.

LiteLLM makes some without our hooks, for example count_tokens. Others are answered before the first hook: the gate refuses
their body, or LiteLLM refuses their form.

As for all calls, the start is written before LiteLLM sees the request, and the result before the client has the last byte.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmstack.gateway import worker
from lmstack.gateway.app.bodies import RefusedError, refuse
from lmstack.gateway.calls import attribution, holders, outcome, served
from lmstack.gateway.calls.current import RequestContext
from lmstack.keys.key import Key
from lmstack.ledger.records import Call, Ended, Fault, Started
from lmstack.routing.refusals import RefusalError, model_not_allowed

log = logging.getLogger(__name__)


async def record(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, context: RequestContext, body: bytes
) -> None:
    """Serve a request and record it. In strict mode, refuse it when it cannot be recorded."""
    call = _call(context, body)
    try:
        _check(context, call)
    except RefusalError as refusal:
        call.ended = True
        await _write(outcome.end(call, "rejected", fault=Fault(refusal.kind, str(refusal.status), refusal.message)))
        await refuse(send, RefusedError(refusal.status, refusal.kind, refusal.message, **refusal.fields), context.path)
        return
    durable = await _write(Started(call))
    if not durable and worker.is_strict():
        await refuse(
            send, RefusedError(503, "not_recorded", "The ledger cannot be written, and LEDGER_MODE is strict.")
        )
        return
    status = 0

    async def noting(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            await _write(_end(call, status))
        await send(message)

    try:
        await app(scope, receive, noting)
    finally:
        if not call.ended:
            _post(_end(call, 0))


def _check(context: RequestContext, call: Call) -> None:
    """Raise RefusalError when the client's key may not make this call: these calls have no hook that could refuse them."""
    if context.key is None:
        return
    holders.check_task(context.key, call.attribution.task_id)
    name = call.requested_model
    if name is not None and name not in served.names_for(context.key):
        raise model_not_allowed(name, context.key.name)


async def record_answered(context: RequestContext, status: int) -> None:
    """Write the row of a call that LiteLLM answered with this HTTP status before our first hook."""
    if status < 400:  # no hook saw it, so its cost is not known
        await _write(_unseen(context, "succeeded", None))
        return
    fault = Fault("RequestFailed", str(status), f"LiteLLM answered with status {status} before it read the request")
    await _write(_unseen(context, "rejected" if status < 500 else "failed", fault))


async def record_refused(headers: Mapping[str, str], path: str, refusal: RefusedError, key: Key | None = None) -> None:
    """Write the row of a call with a valid key that the gate refused."""
    fault = Fault(refusal.kind, str(refusal.status), refusal.message)
    await _write(_unseen(RequestContext(headers, path, key=key), "rejected", fault))


def post_refused(context: RequestContext, fault: Fault) -> None:
    """Write the row of a session that ended before our first hook. Does not wait for the ledger."""
    _post(_unseen(context, "rejected", fault))


def _unseen(context: RequestContext, status: str, fault: Fault | None) -> Ended:
    """Return the whole row of a call that no hook saw. Task and agent are those of its headers: its body may be unreadable."""
    call = _call(context, b"")
    call.ended = True
    return outcome.end(call, status, fault=fault)


async def _write(record: Started | Ended) -> bool:
    """Write a record and return whether it is durable. Our own error must not reach the client."""
    try:
        return (await worker.get().write(record)).durable
    except Exception:
        log.exception("lmstack: a row could not be written")
        return False


def _post(record: Ended) -> None:
    try:
        worker.get().post(record)
    except Exception:
        log.exception("lmstack: a row could not be written")


def _call(context: RequestContext, body: bytes) -> Call:
    """Return the call of a request. One that cannot be read gets a poor row: a recorder fails open."""
    try:
        data = _json_object(body)
        named = {name: data[name] for name in ("metadata", "user", "model") if name in data}
        in_path = _model_in(context.path)  # LiteLLM asks this one, and not one in the body
        if in_path is not None:
            named["model"] = in_path
        return attribution.start_call(named, context.headers, context.path, context.key)
    except Exception:
        log.exception("lmstack: a request could not be read for its row")
        return attribution.start_call({}, {}, context.path, context.key)


def _end(call: Call, status: int) -> Ended:
    """Return the end of a call with this HTTP status; 0: the client left, or LiteLLM gave no answer."""
    call.ended = True
    if 200 <= status < 300:
        return outcome.end(call, "succeeded", cost=0.0)
    if not status:
        return outcome.end(call, "interrupted", fault=Fault("Abandoned", None, "the request ended without an answer"))
    return outcome.end(call, "failed", fault=Fault("RequestFailed", str(status), f"the answer had status {status}"))


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _model_in(path: str) -> str | None:
    """Return the model in a path of native Gemini, ``/v1beta/models/NAME:countTokens``."""
    _, found, rest = path.partition("/models/")
    return rest.rpartition(":")[0] or None if found else None
