"""The events for TaskMaster: their types and their JSON (docs/taskmaster-api.yaml). Pure."""

from datetime import datetime, timezone

from lmstack.ledger.records import Ended
from lmstack.routing.budgets import Limit

SUCCEEDED = "litellm.request.succeeded"
FAILED = "litellm.request.failed"
COST = "litellm.cost.recorded"
BUDGET = "litellm.budget.warning"
ALERT_FIRING = "litellm.alert.firing"
ALERT_ENDED = "litellm.alert.ended"
ALERT_TEST = "litellm.alert.test"


def iso(when: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def request_payload(end: Ended, cost: float | None) -> dict[str, object]:
    """Return the body of a succeeded or failed event."""
    call, last = end.call, end.call.attempts[-1] if end.call.attempts else None
    fault = end.fault
    return {
        "timestamp": iso(end.ended_at),
        "success": end.status == "succeeded",
        "model": last.model if last else None,
        "model_requested": call.requested_model,
        "provider": last.provider if last else None,
        "input_tokens": end.usage.prompt,
        "output_tokens": end.usage.completion,
        "cost": cost,
        "cost_estimated": end.cost_estimated,
        "task_id": call.attribution.task_id,
        "agent_id": call.attribution.agent_id,
        "call_id": call.call_id,
        "trace_id": call.trace_id,
        "latency_ms": round(end.latency_ms, 3),
        "ttft_ms": None if call.ttft_ms is None else round(call.ttft_ms, 3),
        "attempts": len(call.attempts),
        "fallbacks": end.call.fallbacks,
        "stream": call.stream,
        "error": None if fault is None else {"type": fault.type, "code": fault.code, "message": fault.message},
    }


def budget_payload(limit: Limit, spent: float, now: float, level: float | None = None) -> dict[str, object]:
    """Return the body of a warning: a budget has reached its soft limit, or another ``level`` of it. Amounts are US dollars."""
    reset = limit.reset_at(now)
    return {
        "timestamp": iso(now),
        "scope": limit.scope,
        "name": limit.name or None,
        "period": limit.period,
        "limit_usd": limit.usd,
        "spent_usd": round(spent, 9),
        "soft_limit_usd": round(limit.usd * (level or limit.soft or 1.0), 9),
        "resets_at": None if reset is None else iso(reset),
    }


def alert_payload(
    rule: str, subject: str, text: str, values: tuple[float | None, float | None], now: float, since: float, ended: bool = False
) -> dict[str, object]:  # fmt: skip
    """Return the body of an alert. ``values``: what was measured, and from where on it counts. ``since`` is Unix seconds."""
    return {
        "timestamp": iso(now),
        "rule": rule,
        "state": "ended" if ended else "firing",
        "subject": subject,
        "text": text,
        "value": values[0],
        "threshold": values[1],
        "since": iso(since),
    }


def cost_payload(end: Ended, cost: float, task_total: float | None, agent_total: float | None) -> dict[str, object]:
    """Return the body of a cost event. The totals are US dollars of all requests of the task and the agent."""
    return {
        "task_id": end.call.attribution.task_id,
        "agent_id": end.call.attribution.agent_id,
        "model": end.call.attempts[-1].model if end.call.attempts else None,
        "cost": cost,
        "task_total": task_total,
        "agent_total": agent_total,
        "currency": "USD",
    }
