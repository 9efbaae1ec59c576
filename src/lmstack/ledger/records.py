"""The values that travel from a hook to the ledger. Plain data: no litellm objects, no prompts, no secrets."""

import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from lmstack.routing.budgets import Limit

_spare: list[str] = []  # random parts that were drawn ahead: one call of the kernel for many
os.register_at_fork(after_in_child=_spare.clear)  # or parent and child would use the same ones


def new_id(prefix: str) -> str:
    """A sortable unique id: ``prefix_`` + 12 hex digits of milliseconds + 20 random hex digits."""
    try:
        random = _spare.pop()
    except IndexError:
        drawn = os.urandom(10 * 256).hex()
        _spare.extend(drawn[place : place + 20] for place in range(20, len(drawn), 20))
        random = drawn[:20]
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{random}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong: error class, HTTP status as text, redacted message."""

    type: str
    code: str | None
    message: str


@dataclass(slots=True)
class Attempt:
    """One call to one provider. Times in Unix seconds, latency in milliseconds."""

    deployment: str | None
    model: str | None
    provider: str | None
    litellm_model: str | None  # with LiteLLM's provider prefix: what its price map knows
    tier: int | None
    rates: tuple[float, float] | None  # USD per million tokens in and out; None: nobody knows
    own_price: bool  # the rates are the user's own, and override LiteLLM's map
    started_at: float
    latency_ms: float | None = None
    outcome: str | None = None  # None while it is under way
    kind: str = ""  # LiteLLM's call type, e.g. acompletion
    fault: Fault | None = None
    sent: bool = False  # the call was sent; a failure before that is not the provider's
    unreadable: bool = False  # LiteLLM could not make a provider's call out of this request

    @property
    def free(self) -> bool:
        """It costs nothing."""
        return self.rates == (0.0, 0.0)

    def close(self, outcome: str, fault: Fault | None = None) -> None:
        """Settle the attempt once; later calls change nothing."""
        if self.outcome is None:
            self.outcome, self.fault = outcome, fault
            self.latency_ms = max(0.0, (time.time() - self.started_at) * 1000)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; None where the provider did not say."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whom a call is charged to."""

    task_id: str | None = None
    agent_id: str | None = None
    user: str | None = None
    key_alias: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class Call:
    """One client request while it is under way; the ledger gets a copy of its state at start and end."""

    id: str
    call_id: str | None
    trace_id: str | None
    started_at: float
    endpoint: str
    stream: bool
    requested_model: str | None
    attribution: Attribution
    clock: float = field(default_factory=time.perf_counter)
    attempts: list[Attempt] = field(default_factory=list)
    ttft_ms: float | None = None
    ended: bool = False
    estimate_usd: float | None = None  # made at the start, for the case that the end is never known
    reserved_usd: float | None = None  # what its budgets keep aside until its cost is known
    budgeted: bool = False  # a budget applies to it
    late_fault: Fault | None = None  # of a stream's attempt, heard of before anybody knew that it had failed
    fails_first: bool = False  # its first attempt must fail (`lm test --fallback`)
    deadline_passed: bool = False  # LITELLM_DEADLINE
    has_credentials: bool = False  # the client sent a provider's key; its failures do not concern our keys
    cost_usd: float | None = None  # once it has ended
    reported: tuple[Any, float | None] | None = None  # usage and cost of LiteLLM's own log event, if it came first

    def close(self, outcome: str, fault: Fault | None = None) -> None:
        """It has ended, and its last attempt, where there is one, with that outcome."""
        self.ended = True
        if self.attempts:
            self.attempts[-1].close(outcome, fault)

    def is_client_fault(self, attempt: Attempt) -> bool:
        """Return whether a failure of this attempt is the client's: an unreadable request, or the client's own key."""
        return attempt.unreadable or self.has_credentials

    @property
    def fallbacks(self) -> int:
        """How often it moved on to another deployment."""
        names = [attempt.deployment for attempt in self.attempts]
        return sum(1 for before, after in zip(names, names[1:], strict=False) if before != after)

    def elapsed_ms(self) -> float:
        """Milliseconds since the start, by the monotonic clock."""
        return (time.perf_counter() - self.clock) * 1000


@dataclass(frozen=True, slots=True)
class Over:
    """A budget that is used up, or (``waiting``) may be by what is still under way. USD."""

    limit: Limit
    spent: float
    waiting: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a record. ``durable``: the ledger or the spool has it. ``over``: the budget that does not admit it.
    ``checked``: its limits were compared with what was spent. ``late``: nobody knows yet; it may still be written."""

    durable: bool
    over: Over | None = None
    checked: bool = True
    late: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """Record: a request is about to reach a provider. With ``limits`` it is only recorded if they admit it; the
    verdict says so."""

    call: Call
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """Record: a request has its terminal status. Inserts the row when the start was never written."""

    call: Call
    status: str
    ended_at: float
    latency_ms: float
    usage: Usage = Usage()
    cost_usd: float | None = None
    cache_hit: bool = False
    fault: Fault | None = None
    cost_estimated: bool = False


Record = Started | Ended


def dump(record: Record) -> str:
    """A record as one line of JSON, for the spool."""
    call = replace(record.call, clock=0.0, reported=None, late_fault=None)
    fields = asdict(replace(record, call=call))
    fields.pop("limits", None)  # what reaches the spool has been let in
    return json.dumps({"kind": type(record).__name__, **fields}, separators=(",", ":"), default=str)


def load(line: str) -> Record:
    """The record of such a line; ValueError, KeyError or TypeError when it was cut off or is not one."""
    fields = json.loads(line)
    kind, call = fields.pop("kind"), fields["call"]
    call["attribution"] = Attribution(**{**call["attribution"], "tags": tuple(call["attribution"]["tags"])})
    call["attempts"] = [_attempt(fields) for fields in call["attempts"]]
    made = Call(**_known(Call, call))
    if kind == "Started":
        return Started(made)
    return Ended(**{**fields, "call": made, "usage": Usage(**fields["usage"]), "fault": _fault(fields["fault"])})


def _attempt(given: dict[str, Any]) -> Attempt:
    rates = given.get("rates")
    made = {"own_price": False, **_known(Attempt, given)}
    return Attempt(**{**made, "fault": _fault(given["fault"]), "rates": tuple(rates) if rates else None})


def _known(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """A spool may have been written before an upgrade, with fields that are no more."""
    names = {f.name for f in dataclass_fields(kind)}
    return {name: value for name, value in given.items() if name in names}


def _fault(fields: dict[str, Any] | None) -> Fault | None:
    return Fault(**fields) if fields else None
