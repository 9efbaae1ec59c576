"""LiteLLM's callbacks, turned into ledger records. The only module that hooks into a request.

A guest never breaks its host: every hook is guarded, none raises, none blocks the event loop; the one
thing awaited is the commit of a row, for at most store.WAIT_SECONDS.

Which hook fires when (LiteLLM 1.106.2, tests/contract): a request starts in ``async_pre_call_hook``; each
provider attempt has its deployment hooks; it ends in ``async_post_call_success_hook``, at the end of the
streaming iterator, or in ``async_post_call_failure_hook``. Requests that LiteLLM refuses before the
first hook (bad key, bad JSON) only have the last.
"""

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from lmstack.gateway import worker
from lmstack.gateway.calls import admission, attempts, faults
from lmstack.gateway.calls.costs import cost_of, owed
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.ledger.records import Call, Ended, Fault, Started, Usage, Verdict
from lmstack.routing.budgets import Limit
from lmstack.routing.candidates import GROUP_OF_TIER
from lmstack.routing.needs import needs_of
from lmstack.routing.policy import said

log = logging.getLogger(__name__)

_current: ContextVar[Call | None] = ContextVar("lmstack_call", default=None)


@dataclass(slots=True)
class Visit:
    """What proxy.Door saw of a request, which LiteLLM's data lacks on an authentication failure; and its calls."""

    headers: Mapping[str, str]
    path: str
    calls: list[Call] = field(default_factory=list)


arrival: ContextVar[Visit | None] = ContextVar("lmstack_arrival", default=None)

# The request's body, for what must not say anything of it: errors and log lines.
body: ContextVar[Mapping[str, Any] | None] = ContextVar("lmstack_body", default=None)

F = TypeVar("F", bound=Callable[..., Any])
USAGE_WAIT_SECONDS = 1.0


def guarded(hook: F) -> F:
    """A bug of ours is logged, never seen by a client."""

    @functools.wraps(hook)
    async def safe(*args: Any, **kwargs: Any) -> Any:
        try:
            return await hook(*args, **kwargs)
        except (HTTPException, admission.DeadlinePassed, admission.JustFailed):  # a refusal that is meant
            raise
        except Exception:
            log.exception("lmstack: %s failed; the request goes on", hook.__name__)
            return None

    # LiteLLM looks at parameter names, so the wrapper must show the hook's own.
    safe.__signature__ = inspect.signature(hook)  # type: ignore[attr-defined]
    return safe  # type: ignore[return-value]


class LedgerHandler(CustomLogger):  # type: ignore[misc]
    """One instance per worker process, made at import and without side effects until the first request."""

    @guarded
    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        visit = arrival.get()
        call = attempts.start_call(data, path=visit.path if visit else None)
        if visit is not None:
            visit.calls.append(call)
        _current.set(call)
        body.set(data)
        _tie(data, call)
        _ask_for_usage(data, call_type)
        try:
            limits = admission.route(data, call, call_type)
        except HTTPException:
            raise
        except Exception:
            log.exception("lmstack: a request could not be routed")
            if _may_be_limited(data):
                raise HTTPException(503, {"error": _UNCHECKED}) from None
            limits = ()
        verdict = await _admit(data, call, call_type, limits)
        if not verdict.durable and worker.get().strict:
            raise HTTPException(503, {"error": "The ledger cannot record this request and LEDGER_MODE is strict."})

    @guarded
    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        call = _call_of(kwargs)
        if call is None:
            return
        admission.bound(kwargs, call)
        attempt = attempts.start_attempt(kwargs, str(getattr(call_type, "value", call_type)))
        last = call.attempts[-1] if call.attempts else None
        if last and last.outcome is None:
            if last.deployment == attempt.deployment and last.kind != attempt.kind:
                return  # one endpoint served through another (Messages over Responses) enters twice
            # A stream that some providers (Gemini) only open with its first chunk: no hook has told of its failure.
            last.close("failed", call.late_fault)
            call.late_fault = None
            if last.deployment == attempt.deployment:
                await admission.not_again(kwargs, last)
        call.attempts.append(attempt)
        if call.drill:
            admission.drill(call, attempt)

    @guarded
    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        call = _call_of(request_data)
        if call and call.attempts:
            attempt = call.attempts[-1]
            attempt.close("failed", attempts.fault_of(exception, request_data))
            attempt.unread = faults.is_requests(exception, attempt.asked)
            if not call.is_at_fault(attempt):
                worker.get().note_health(attempt.deployment, attempt.fault)
                await admission.cool_down(request_data, exception, attempt)

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """LiteLLM has made the provider's call out of the request, and sends it."""
        call = _current.get()
        if call is not None and call.attempts:
            call.attempts[-1].asked = True

    @guarded
    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """An answer without any choice is no answer: LiteLLM goes on to the next model, and tells nobody why."""
        choices = getattr(response, "choices", None)
        call = _call_of(request_data) if choices is not None and not choices else None
        if call is not None and call.attempts:
            call.attempts[-1].close("failed", Fault("EmptyAnswer", None, "the answer has no choices"))

    @guarded
    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        call = _call_of(data)
        return _told(call) if call is not None else None

    @guarded
    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        call = _call_of(data)
        if call is None or call.ended:
            return
        usage = attempts.usage_in(response)
        hidden = getattr(response, "_hidden_params", None) or {}
        await _succeed(call, usage, hidden.get("response_cost"), bool(hidden.get("cache_hit")))

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Pass every chunk on untouched; note the first one's time and whatever it says of usage."""
        call = _call_of(request_data)
        if call is None or call.ended:
            async for chunk in response:
                yield chunk
            return
        call.stream = True
        seen = StreamUsage()
        try:
            async for chunk in response:
                if call.ttft_ms is None:
                    call.ttft_ms = call.elapsed_ms()
                seen.look(chunk)
                yield chunk
            seen.finish()
            if seen.complete(response):
                await _finish_stream(call, seen)
            else:
                # No success, whatever LiteLLM's own log event will say, and whatever "stop" it has invented.
                fault = Fault("StreamTruncated", None, "the provider ended the stream before it was complete")
                _interrupt(call, seen, fault, request_data, response, seen.said_something(response))
        except (asyncio.CancelledError, GeneratorExit):
            fault = Fault("ClientDisconnected", "499", "the client closed the connection")
            _interrupt(call, seen, fault, request_data, response)
            raise
        except Exception as error:
            _interrupt(call, seen, attempts.fault_of(error, request_data), request_data, response)
            raise

    @guarded
    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        call = _current.get()
        if call is None or call.ended:
            return
        payload = kwargs.get("standard_logging_object") or {}
        usage = {name: payload.get(name) for name in ("prompt_tokens", "completion_tokens")}
        if call.stream:
            call.reported = (usage, payload.get("response_cost"))  # _finish_stream may be waiting for it
        else:
            await _succeed(call, usage, payload.get("response_cost"), bool(payload.get("cache_hit")))

    @guarded
    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Only this tells why a stream failed that was opened with its first chunk. It comes before or after the next
        attempt; everything else that it may tell is known from other hooks."""
        call, error = _current.get(), kwargs.get("exception")
        if call is None or call.ended or not call.stream or not isinstance(error, Exception):
            return
        if getattr(error, "status_code", None) is None:
            return  # no provider's: nobody was left to ask
        call.late_fault = attempts.fault_of(error, body.get())
        for attempt in call.attempts:
            if attempt.outcome == "failed" and attempt.fault is None:
                attempt.fault, call.late_fault = call.late_fault, None
                return

    @guarded
    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> HTTPException | None:
        call = _call_of(request_data)
        better = _better_error(request_data, original_exception, call)
        if call is None:
            visit = arrival.get() or Visit({}, "")
            call = attempts.start_call(request_data, visit.headers, visit.path)
        if not call.ended:
            fault = attempts.fault_of(original_exception, request_data)
            if better is not None:
                kind = "AuthenticationError" if better.status_code == 401 else fault.type
                fault = Fault(kind, str(better.status_code), attempts.fault_of(better, request_data).message)
            call.close("failed", fault)
            status = "failed" if call.attempts else "rejected"
            await worker.get().write(_end(call, status, fault=fault))
        return better


def abandon(call: Call) -> None:
    """End a call whose request is over and of which no hook has told an end; with the cost that is owed at least."""
    if call.ended:
        return
    call.close("interrupted")
    fault = Fault("Abandoned", None, "the request was torn down before it had its answer")
    cost = call.estimate_usd
    worker.get().post(_end(call, "interrupted", cost=cost, fault=fault, estimated=bool(cost)))


async def _finish_stream(call: Call, seen: StreamUsage) -> None:
    try:
        if seen.usage is None:
            await _wait_for_report(call, seen)
        await _succeed(call, seen.usage, seen.cost, False)
    except Exception:
        log.exception("lmstack: a stream's end could not be recorded")


async def _wait_for_report(call: Call, seen: StreamUsage) -> None:
    """No chunk carried usage: LiteLLM's log event, queued by now, has its own count."""
    deadline = time.monotonic() + USAGE_WAIT_SECONDS
    while call.reported is None and time.monotonic() < deadline:  # noqa: ASYNC110 - an Event per call would cost every call
        await asyncio.sleep(0.01)
    if call.reported is not None:
        seen.usage, seen.cost = call.reported


async def _succeed(call: Call, usage: Any, cost: float | None, cache_hit: bool) -> None:
    call.close("succeeded")
    if call.attempts:
        worker.get().note_health(call.attempts[-1].deployment, None)
    tokens = Usage()
    try:
        tokens = attempts.usage_of(usage)
        call.cost_usd = 0.0 if cache_hit else cost_of(call, usage, tokens, cost)
    except Exception:  # whatever a provider calls usage: its request has ended, and the row must say so
        log.exception("lmstack: the usage of an answer could not be read")
    await worker.get().write(_end(call, "succeeded", tokens, call.cost_usd, cache_hit))


def _interrupt(
    call: Call, seen: StreamUsage, fault: Fault, data: Mapping[str, Any], response: object, content: bool = True
) -> None:
    """End a broken stream; nothing may be awaited here, the task is being torn down."""
    if call.ended:
        return
    call.close("interrupted", fault)
    status = "interrupted" if call.ttft_ms is not None and content else "failed"
    tokens, cost, estimated = Usage(), None, False
    try:
        tokens = attempts.usage_of(seen.usage)
        if seen.final:
            cost = cost_of(call, seen.usage, tokens, seen.cost)
        elif content:
            tokens = Usage(tokens.prompt or None)  # what a stream says of its answer before the end is no count
            cost = owed(call, tokens, needs_of(data).tokens_in, seen.characters(response))
            estimated = bool(cost)
    except Exception:
        log.exception("lmstack: the cost of a broken stream could not be found")
    worker.get().post(_end(call, status, tokens, cost, fault=fault, estimated=estimated))


def _end(
    call: Call, status: str, usage: Usage | None = None, cost: float | None = None, cache_hit: bool = False,
    fault: Fault | None = None, estimated: bool = False,
) -> Ended:  # fmt: skip
    return Ended(call, status, time.time(), call.elapsed_ms(), usage or Usage(), cost, cache_hit, fault, estimated)


async def _admit(data: dict[str, Any], call: Call, call_type: str, limits: tuple[Limit, ...]) -> Verdict:
    """Record the start, if its budgets allow it. Raises the 429 when they do not, the 503 when nobody can know."""
    give_up = time.monotonic() + admission.BUDGET_WAIT_SECONDS
    while True:
        verdict = await worker.get().write(Started(call, limits))
        over = verdict.over
        if over is None and (verdict.checked or not limits):
            return verdict
        if verdict.late or time.monotonic() > give_up or (over is not None and not over.waiting):
            break
        # What is under way may use the budget up, or not: that is known when it has ended. A stuck ledger may recover.
        await asyncio.sleep(0.1)
    if not admission.to_free_models(data, call, call_type):
        raise admission.over_budget(over) if over is not None else admission.unknown_spending()
    return await worker.get().write(Started(call))


_UNCHECKED = "The gateway could not check this request against its budget, so it was refused. The log says why."


def _may_be_limited(data: Mapping[str, Any]) -> bool:
    """Whether a budget may count for a request that could not be read: then it is refused. A recorder fails open."""
    try:
        headers = (data.get("proxy_server_request") or {}).get("headers") or {}
        metadata = data.get("metadata")
        asked = said(headers, metadata if isinstance(metadata, Mapping) else {}, "task-budget")
        return asked is not None or bool(admission.rules().budgets)
    except Exception:
        return True


def _told(call: Call) -> dict[str, str]:
    """What happened, as response headers. A stream's cost is not known when its headers leave."""
    last = call.attempts[-1] if call.attempts else None
    told = {"x-lm-fallbacks": str(call.fallbacks)} if last else {}
    if last is not None and last.outcome != "failed":
        told["x-lm-model"] = last.model or ""
        if last.tier is not None:
            told["x-lm-tier"] = GROUP_OF_TIER[last.tier]
        if call.ended:
            told["x-lm-cost"] = "unknown" if call.cost_usd is None else f"{call.cost_usd:.10f}"
    return told


def _better_error(data: Mapping[str, Any], error: Exception, call: Call | None) -> HTTPException | None:
    """Mend what stock says wrongly: 500 or 400 for a missing or wrong key, and no hint for an unserved name."""
    if call is not None and call.late:
        return HTTPException(
            504, {"error": f"No model answered within LITELLM_DEADLINE ({admission.rules().deadline:g} s)."}
        )
    text = str(getattr(error, "message", "") or error)
    kind = getattr(getattr(error, "type", None), "value", getattr(error, "type", None))
    no_key = type(error) is Exception and text.startswith(("No api key passed in", "Malformed API Key"))
    if no_key or kind == "no_db_connection":
        return HTTPException(401, "Invalid or missing API key. Send 'Authorization: Bearer <LITELLM_MASTER_KEY>'.")
    why = _why_unserved(data.get("model")) if "Invalid model name" in text else None
    if why is None and _is_misshapen(error, call):
        own = call.attempts[0].fault if call and call.attempts else None
        why = f"No provider's call can be made out of this request: {own.message if own else text}"
    return HTTPException(400, {"error": why}) if why else None


def _is_misshapen(error: Exception, call: Call | None) -> bool:
    """Whether nobody could read the request, and LiteLLM would call that a failure of its own (500), or, where the
    last model of the walk is cooling down for something else, a 429."""
    status = int(getattr(error, "status_code", None) or 500)
    if status < 500 and status != 429:
        return False
    if call is None or not call.attempts:
        return type(error) in faults.SHAPE
    return all(a.unread or (a.fault is not None and a.fault.code == "400") for a in call.attempts)


def _why_unserved(model: object) -> str | None:
    """The rendered config lists the catalog names that no key serves, each with the variable to set."""
    unserved = (litellm.callback_settings.get("lmstack") or {}).get("unserved") or {}
    variable = unserved.get(model)
    if variable is None:
        return None
    return (
        f"Model '{model}' is in the catalog but its provider is not configured: set {variable} in .env, then 'lm up'."
    )


def is_clients_fault(deployment: str) -> bool:
    """Whether the request in hand is to blame for a failure of this deployment, just now."""
    call = _current.get()
    return call is not None and any(a.deployment == deployment and call.is_at_fault(a) for a in call.attempts)


def _ask_for_usage(data: dict[str, Any], call_type: str) -> None:
    """Stock asks providers for a stream's true token count and hides the extra chunk from the client, but not where
    the name is a router (``auto``): then it would count by itself. The same two keys make it do so there too."""
    if call_type == "acompletion" and data.get("stream") is True and "stream_options" not in data:
        data["stream_options"] = {"include_usage": True}
        data["_litellm_strip_stream_usage"] = True


def _tie(data: Mapping[str, Any], call: Call) -> None:
    """Hooks that run in another context still find the call through LiteLLM's own per-request object."""
    holder = data.get("litellm_logging_obj")
    if holder is not None:
        holder.lm_call = call


def _call_of(data: Mapping[str, Any]) -> Call | None:
    return getattr(data.get("litellm_logging_obj"), "lm_call", None) or _current.get()


handler = LedgerHandler()

__all__ = ["LedgerHandler", "Visit", "abandon", "arrival", "body", "handler", "is_clients_fault"]
