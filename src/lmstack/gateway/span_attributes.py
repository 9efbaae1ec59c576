"""The attributes of spans: OpenTelemetry's GenAI conventions, and ours below ``lmstack.`` for what they do not name. Pure.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from typing import Any

from lmstack.ledger.records import Call, Ended, Fault, Usage

_OPERATIONS = {
    "chat/completions": "chat", "messages": "chat", "responses": "chat", "completions": "text_completion",
    "embeddings": "embeddings", "generateContent": "generate_content", "streamGenerateContent": "generate_content",
}  # fmt: skip
# The conventions' names of providers, where ours differ.
_PROVIDERS = {"google": "gcp.gemini"}
Attributes = dict[str, Any]


def operation_of(call: Call) -> str:
    """Return the operation: a name of the conventions, else the last words of the path, such as ``images/generations``."""
    path = call.endpoint.partition("?")[0].rstrip("/")
    method = path.rpartition(":")[2]
    for end, name in _OPERATIONS.items():
        if path.endswith(f"/{end}") or method == end:
            return name
    words = [word for word in path.split("/") if word and word not in ("v1", "openai")]
    return "/".join(words[:2]) or "request"


def of_request(end: Ended, operation: str) -> Attributes:
    """Return the attributes of a request's span."""
    call, who = end.call, end.call.attribution
    last = call.attempts[-1] if call.attempts else None
    return _known({
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider(last.provider) if last else None,
        "gen_ai.request.model": call.requested_model,
        "gen_ai.response.model": last.model if last and end.status == "succeeded" else None,
        "gen_ai.request.stream": call.stream,
        "gen_ai.response.time_to_first_chunk": None if call.ttft_ms is None else call.ttft_ms / 1000,
        "gen_ai.agent.id": who.agent_id,
        "enduser.id": who.user,
        "url.path": call.endpoint.partition("?")[0],
        "lmstack.request.id": call.id,
        "lmstack.call.id": call.call_id,
        "lmstack.status": end.status,
        "lmstack.task.id": who.task_id,
        "lmstack.key": who.key_alias,
        "lmstack.team": who.team,
        "lmstack.tags": list(who.tags) or None,
        "lmstack.tier": last.tier if last else None,
        "lmstack.cost_usd": end.cost_usd,
        "lmstack.cost_estimated": end.cost_estimated,
        "lmstack.fallbacks": call.fallbacks,
        "lmstack.cache_hit": end.cache_hit,
        **_tokens(end.usage),
        **_error(end.fault, end.status),
    })  # fmt: skip


def of_attempt(end: Ended, number: int, operation: str) -> Attributes:
    """Return the attributes of the span of one attempt, from 1."""
    attempt = end.call.attempts[number - 1]
    answered = attempt.outcome == "succeeded"
    return _known({
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _provider(attempt.provider),
        "gen_ai.request.model": attempt.model,
        "gen_ai.response.model": attempt.model if answered else None,
        "lmstack.deployment": attempt.deployment,
        "lmstack.attempt": number,
        "lmstack.tier": attempt.tier,
        **(_tokens(end.usage) if answered else {}),
        **_error(attempt.fault, attempt.outcome or "interrupted"),
    })  # fmt: skip


def _tokens(usage: Usage) -> Attributes:
    return {
        "gen_ai.usage.input_tokens": usage.prompt,
        "gen_ai.usage.output_tokens": usage.completion,
        "gen_ai.usage.cache_read.input_tokens": usage.cached,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
    }


def _error(fault: Fault | None, status: str) -> Attributes:
    """Return class and status of an error. Its text may quote the request, so it stays in the ledger."""
    if status == "succeeded":
        return {}
    code = fault.code if fault else None
    status_code = int(code) if code is not None and code.isascii() and code.isdigit() else None
    return {"error.type": (fault.type if fault else "") or status, "http.response.status_code": status_code}


def _provider(name: str | None) -> str | None:
    return None if name is None else _PROVIDERS.get(name, name)


def _known(attributes: Attributes) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
