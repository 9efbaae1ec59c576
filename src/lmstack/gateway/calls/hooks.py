"""LiteLLM's callbacks. The only module that hooks into a request.

No hook may raise into the proxy, except for a refusal that is meant, and none may block its event loop. The one thing
awaited is the commit of a row, for at most writer.WAIT_SECONDS (longer under a budget).

Which hook fires when (LiteLLM 1.106.2, tests/contract): a request starts in ``async_pre_call_hook``; each provider attempt
has its deployment hooks; it ends in ``async_post_call_success_hook``, at the end of the streaming iterator, or in
``async_post_call_failure_hook``. Requests that LiteLLM refuses before the first hook (bad key, bad JSON) only have the last.
"""

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from lmstack.gateway import worker
from lmstack.gateway.calls import admission, attempts, current, faults, outcome, replies
from lmstack.gateway.calls.streams import StreamUsage
from lmstack.ledger.records import Attempt, Attribution, Call, Fault, Started, Verdict, new_id
from lmstack.routing.budgets import Limit
from lmstack.routing.policy import said

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


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


class Step(Enum):
    """What an attempt is to the one before it."""

    NEXT = "another deployment, or the first attempt"
    SAME = "one endpoint served through another (Messages over Responses) enters twice"
    AGAIN = "the same deployment, after a failure that no hook has told"


def settle_previous(call: Call, attempt: Attempt) -> Step:
    """Close the attempt before this one, if it is still open, and return what this one is to it."""
    last = call.attempts[-1] if call.attempts else None
    if last is None or last.outcome is not None:
        return Step.NEXT
    same = last.deployment == attempt.deployment
    if same and last.kind != attempt.kind:
        return Step.SAME
    # A stream that some providers (Gemini) only open with its first chunk: no hook has told of its failure.
    last.close("failed", call.late_fault)
    call.late_fault = None
    return Step.AGAIN if same else Step.NEXT


class LedgerHandler(CustomLogger):  # type: ignore[misc]
    """One instance per worker process, made at import and without side effects until the first request."""

    @guarded
    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        try:
            await _begin(data, call_type)
        except HTTPException:
            raise
        except Exception:
            log.exception("lmstack: a request could not be admitted in order")
            if worker.is_strict() or _may_be_limited(data):
                raise HTTPException(503, {"error": _UNCHECKED}) from None
            _record_plainly(data)

    @guarded
    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        call = current.call_of(kwargs)
        if call is None:
            return
        admission.bound(kwargs, call)
        attempt = attempts.start_attempt(kwargs, str(getattr(call_type, "value", call_type)))
        step = settle_previous(call, attempt)
        if step is Step.SAME:
            return
        if step is Step.AGAIN:
            await admission.not_again(kwargs, call.attempts[-1])
        call.attempts.append(attempt)
        if call.drill:
            admission.drill(call, attempt)

    @guarded
    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        call = current.call_of(request_data)
        if call and call.attempts:
            attempt = call.attempts[-1]
            attempt.close("failed", attempts.fault_of(exception, request_data))
            attempt.unread = faults.is_requests(exception, attempt.asked)
            if not call.is_at_fault(attempt):
                worker.get().note_health(attempt.deployment, attempt.fault)
                await admission.cool_down(request_data, exception, attempt)

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """LiteLLM has made the provider's call out of the request, and sends it."""
        call = current.in_hand()
        if call is not None and call.attempts:
            call.attempts[-1].asked = True

    @guarded
    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """An answer without any choice is no answer: LiteLLM goes on to the next model, and tells nobody why."""
        choices = getattr(response, "choices", None)
        call = current.call_of(request_data) if choices is not None and not choices else None
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
        call = current.call_of(data)
        return replies.headers_of(call) if call is not None else None

    @guarded
    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        call = current.call_of(data)
        if call is None or call.ended:
            return
        usage = attempts.usage_in(response)
        hidden = getattr(response, "_hidden_params", None) or {}
        await outcome.succeed(call, usage, hidden.get("response_cost"), bool(hidden.get("cache_hit")))

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Pass every chunk on untouched; note the first one's time and whatever it says of usage."""
        call = current.call_of(request_data)
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
                await outcome.finish_stream(call, seen)
            else:
                # No success, whatever LiteLLM's own log event will say, and whatever "stop" it has invented.
                fault = Fault("StreamTruncated", None, "the provider ended the stream before it was complete")
                outcome.interrupt(call, seen, fault, request_data, response, seen.said_something(response))
        except (asyncio.CancelledError, GeneratorExit):
            fault = Fault("ClientDisconnected", "499", "the client closed the connection")
            outcome.interrupt(call, seen, fault, request_data, response)
            raise
        except Exception as error:
            outcome.interrupt(call, seen, attempts.fault_of(error, request_data), request_data, response)
            raise

    @guarded
    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        call = current.in_hand()
        if call is None or call.ended:
            return
        payload = kwargs.get("standard_logging_object") or {}
        usage = {name: payload.get(name) for name in ("prompt_tokens", "completion_tokens")}
        if call.stream:
            call.reported = (usage, payload.get("response_cost"))  # _finish_stream may be waiting for it
        else:
            await outcome.succeed(call, usage, payload.get("response_cost"), bool(payload.get("cache_hit")))

    @guarded
    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Only this tells why a stream failed that was opened with its first chunk. It comes before or after the next
        attempt; everything else that it may tell is known from other hooks."""
        call, error = current.in_hand(), kwargs.get("exception")
        if call is None or call.ended or not call.stream or not isinstance(error, Exception):
            return
        if getattr(error, "status_code", None) is None:
            return  # no provider's: nobody was left to ask
        call.late_fault = attempts.fault_of(error, current.body.get())
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
        call = current.call_of(request_data)
        better = replies.better_error(request_data, original_exception, call)
        if call is None:
            seen = current.request_context.get() or current.RequestContext({}, "")
            call = attempts.start_call(request_data, seen.headers, seen.path)
        if not call.ended:
            fault = attempts.fault_of(original_exception, request_data)
            if better is not None:
                kind = "AuthenticationError" if better.status_code == 401 else fault.type
                fault = Fault(kind, str(better.status_code), attempts.fault_of(better, request_data).message)
            call.close("failed", fault)
            status = "failed" if call.attempts else "rejected"
            await worker.get().write(outcome.end(call, status, fault=fault))
        return better


async def _begin(data: dict[str, Any], call_type: str) -> None:
    """Read, decide, write: the call, where it may go, and its start on the ledger."""
    seen = current.request_context.get()
    call = attempts.start_call(data, path=seen.path if seen else None)
    current.begin(data, call)
    _ask_for_usage(data, call_type)
    limits = _routed(data, call, call_type)
    verdict = await _admit(data, call, call_type, limits)
    if not verdict.durable and worker.is_strict():
        raise HTTPException(503, {"error": "The ledger cannot record this request and LEDGER_MODE is strict."})


def _routed(data: dict[str, Any], call: Call, call_type: str) -> tuple[Limit, ...]:
    """The budgets of a request. When our routing fails the request goes its stock way, unless a budget may count."""
    try:
        return admission.route(data, call, call_type)
    except HTTPException:
        raise
    except Exception:
        if _may_be_limited(data):
            raise
        log.exception("lmstack: a request could not be routed")
        return ()


def _record_plainly(data: Mapping[str, Any]) -> None:
    """A row for a request that could not be read: better a poor one than none."""
    if current.call_of(data) is not None:
        return
    seen = current.request_context.get()
    call = Call(new_id("req"), None, None, time.time(), seen.path if seen else "", False, None, Attribution())
    current.begin(data, call)
    worker.get().post(Started(call))


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


def _ask_for_usage(data: dict[str, Any], call_type: str) -> None:
    """Stock asks providers for a stream's true token count and hides the extra chunk from the client, but not where
    the name is a router (``auto``): then it would count by itself. The same two keys make it do so there too."""
    if call_type == "acompletion" and data.get("stream") is True and "stream_options" not in data:
        data["stream_options"] = {"include_usage": True}
        data["_litellm_strip_stream_usage"] = True


handler = LedgerHandler()

__all__ = ["LedgerHandler", "Step", "handler", "settle_previous"]
