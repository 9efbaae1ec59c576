"""LiteLLM's callbacks. No other module hooks into a request.

A hook must not raise into the proxy, except for a refusal, and must not block its event loop. It awaits only the commit
of a row, for at most writer.WAIT_SECONDS (longer under a budget).

The order of hooks (LiteLLM 1.108.7, tests/contract): a request starts in ``async_pre_call_hook``. Each attempt has its
deployment hooks. The request ends in ``async_post_call_success_hook``, at the end of the streaming iterator, or in
``async_post_call_failure_hook``. A request that LiteLLM refuses before the first hook (an unknown model) has only that one.
The gate refuses a bad key and bad JSON before LiteLLM sees them (gateway/app/gate.py).
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from lmstack.gateway import worker
from lmstack.gateway.calls import (
    admission,
    attempt_control,
    attempts,
    attribution,
    cooldown,
    current,
    faults,
    late_failures,
    outcome,
    replies,
    unanswered,
)
from lmstack.gateway.calls.attempt_control import AttemptSkipped, DeadlinePassed, Step
from lmstack.gateway.calls.streams import StreamUsage, is_usage_only
from lmstack.gateway.calls.usage import seconds_of, usage_in
from lmstack.ledger.faults import CLIENT_KEY
from lmstack.ledger.records import Fault

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def guarded(hook: F) -> F:
    """Return the hook with our own errors logged. Refusals pass through."""

    @functools.wraps(hook)
    async def safe(*args: Any, **kwargs: Any) -> Any:
        try:
            return await hook(*args, **kwargs)
        except (HTTPException, DeadlinePassed, AttemptSkipped):
            raise
        except Exception:
            log.exception("lmstack: %s failed; the request goes on", hook.__name__)
            return None

    # LiteLLM looks at parameter names, so the wrapper must show those of the hook.
    safe.__signature__ = inspect.signature(hook)  # type: ignore[attr-defined]
    return safe  # type: ignore[return-value]


class LedgerHandler(CustomLogger):  # type: ignore[misc]
    """The callback of LiteLLM. One instance per worker process; it does nothing until the first request."""

    @guarded
    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        """Admit a request."""
        if not current.is_unhooked():
            await admission.begin(data, call_type)

    @guarded
    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        """Record an attempt before the provider is called."""
        call = current.call_of(kwargs)
        if call is None:
            return
        attempt_control.limit_time(kwargs, call)
        attempt = attempts.start_attempt(kwargs, str(getattr(call_type, "value", call_type)))
        step = attempt_control.settle_previous(call, attempt)
        if step is Step.SAME:
            return
        if step is Step.RETRY:
            await attempt_control.skip_if_failed(call.attempts[-1])
        if step is Step.NEXT:
            await late_failures.cool_down_last(call)
        call.attempts.append(attempt)
        traces = worker.get().traces
        if traces is not None:
            traces.hand_on(kwargs, call)
        attempt_control.fail_first(call, attempt)

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """Note that LiteLLM has made the provider's call, and now sends it."""
        call = current.get_call()
        if call is not None and call.attempts:
            call.attempts[-1].sent = True

    @guarded
    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        """Record the failure of an attempt, and cool its deployment down where the client did not cause it."""
        call = current.call_of(request_data)
        if call and call.attempts:
            attempt = call.attempts[-1]
            attempt.close(
                "failed", attempts.fault_of(exception, request_data, CLIENT_KEY if call.has_credentials else "")
            )
            attempt.unreadable = faults.is_client_fault(exception, attempt.sent) or faults.misses_what_is_kept(
                exception, request_data
            )
            if not call.is_client_fault(attempt):
                worker.get().results.note(attempt.deployment, attempt.provider, attempt.fault)
                if await cooldown.cool_down(request_data, exception, attempt):
                    worker.get().results.note_provider(attempt.provider, attempt.fault)

    @guarded
    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """Record an answer without any choice as a failure: LiteLLM tries the next model, and no other hook says why."""
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
        """Return the headers for the client."""
        call = current.call_of(data)
        return replies.headers_of(call) if call is not None else None

    @guarded
    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        """Record the end of an answer that is not streamed."""
        call = current.call_of(data)
        if call is None or call.ended:
            return
        hidden = getattr(response, "_hidden_params", None) or {}
        await outcome.succeed(call, usage_in(response), hidden.get("response_cost"), bool(hidden.get("cache_hit")))

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Yield every chunk unchanged, and record the end of the stream. A chunk with the usage that we asked for is left out."""
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
                seen.read(chunk)
                if not (call.hides_usage and is_usage_only(chunk)):
                    yield chunk
            seen.finish()
            if seen.is_complete(response):
                await outcome.finish_stream(call, seen)
            else:  # LiteLLM's own log event will call it a success
                fault = Fault("StreamTruncated", None, "the provider ended the stream before it was complete")
                outcome.interrupt(call, seen, fault, request_data, response, seen.has_content(response))
        except (asyncio.CancelledError, GeneratorExit):
            fault = Fault("ClientDisconnected", "499", "the client closed the connection")
            outcome.interrupt(call, seen, fault, request_data, response)
            raise
        except Exception as error:
            outcome.interrupt(call, seen, attempts.fault_of(error, request_data), request_data, response)
            await late_failures.cool_down_last(call)
            raise

    @guarded
    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Record the end of a call that no other hook ended, or keep LiteLLM's usage for a stream."""
        call = current.get_call()
        if call is None or call.ended:
            return
        payload = kwargs.get("standard_logging_object") or {}
        usage = {name: payload.get(name) for name in ("prompt_tokens", "completion_tokens")}
        call.units = call.units or seconds_of(response_obj)
        if call.stream:
            # LiteLLM reports zeros for a stream without usage. outcome.finish_stream may be waiting for this.
            call.reported = (usage if usage["prompt_tokens"] else None, payload.get("response_cost"))
        else:
            await outcome.succeed(call, usage, payload.get("response_cost"), bool(payload.get("cache_hit")))

    @guarded
    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Keep the error of a stream that failed before its first chunk (Gemini). No other hook gets it."""
        call, error = current.get_call(), kwargs.get("exception")
        if call is not None and not call.ended and call.stream and isinstance(error, Exception):
            late_failures.note(call, error)

    @guarded
    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> HTTPException | None:
        """Record the end of a failed or refused request, and return a better error for the client."""
        call = current.call_of(request_data)
        better = replies.better_error(request_data, original_exception, call)
        if call is None and not current.is_unhooked():
            context = current.request_context.get() or current.RequestContext({}, "")
            headers = {**attribution.headers_of(request_data), **context.headers}
            call = attribution.start_call(request_data, headers, context.path, context.key)
            current.begin(request_data, call)  # else the middleware would write a row for it, too
        if call is not None and not call.ended:
            fault = attempts.fault_of(original_exception, request_data)
            if better is not None:
                kind = fault.type
                if better.status_code == 401:
                    kind = "AuthenticationError"
                elif kind.startswith("RouterRateLimitError"):
                    kind = unanswered.fault_type(call)
                fault = Fault(kind, str(better.status_code), attempts.fault_of(better, request_data).message)
            unreported = bool(call.attempts) and call.attempts[-1].outcome is None
            await outcome.fail(call, fault, original_exception)
            if unreported and call.stream:
                await late_failures.cool_down_last(call)
        if better is not None:
            replies.write_into(original_exception, better)
        return better


handler = LedgerHandler()

__all__ = ["LedgerHandler", "handler"]
