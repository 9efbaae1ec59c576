"""The values that go from a hook to the ledger. Plain data: no LiteLLM objects, no prompts, no secrets."""

import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from lmstack.routing.budgets import Limit

_spare: list[str] = []  # random parts for the next ids: one system call for many
os.register_at_fork(after_in_child=_spare.clear)  # else parent and child would use the same parts


def new_id(prefix: str) -> str:
    """Return a unique id that sorts by time: ``prefix_``, 12 hex digits of milliseconds, 20 random hex digits."""
    try:
        random = _spare.pop()
    except IndexError:
        drawn = os.urandom(10 * 256).hex()
        _spare.extend(drawn[place : place + 20] for place in range(20, len(drawn), 20))
        random = drawn[:20]
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{random}"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error: its class, its HTTP status as text, its redacted message."""

    type: str
    code: str | None
    message: str


@dataclass(slots=True)
class Attempt:
    """One call of one provider. Times are Unix seconds; the latency is milliseconds."""

    deployment: str | None
    model: str | None
    provider: str | None
    litellm_model: str | None  # with LiteLLM's provider prefix, as in its price map
    tier: int | None
    rates: tuple[float, float] | None  # USD per million tokens, input and output; None: unknown
    own_price: bool  # the rates come from the user and override LiteLLM's price map
    started_at: float
    latency_ms: float | None = None
    outcome: str | None = None  # None while the attempt runs
    kind: str = ""  # LiteLLM's call type, e.g. acompletion
    fault: Fault | None = None
    sent: bool = False  # the call was sent; an error before that is not the provider's fault
    flat_price: tuple[str, float] | None = None  # of models.yaml: per_image and so on, and US dollars
    unreadable: bool = False  # LiteLLM could not make a call of the provider from this request

    @property
    def free(self) -> bool:
        """Whether the model costs nothing."""
        return self.rates == (0.0, 0.0)

    def close(self, outcome: str, fault: Fault | None = None) -> None:
        """Set the outcome of the attempt. Only the first call has an effect."""
        if self.outcome is None:
            self.outcome, self.fault = outcome, fault
            self.latency_ms = max(0.0, (time.time() - self.started_at) * 1000)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer. None where the provider did not report them."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who pays for a request."""

    task_id: str | None = None
    agent_id: str | None = None
    user: str | None = None
    key_alias: str | None = None  # the name of the key
    team: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class Call:
    """One request of a client while it runs. The ledger gets its state at the start and at the end."""

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
    estimate_usd: float | None = None  # made at the start, in case the end is never known
    reserved_usd: float | None = None  # reserved from its budgets until its cost is known
    budgeted: bool = False  # a budget applies to it
    limited: tuple[str, ...] = ()  # the scopes of its budgets: all, task, agent, team, key
    limits: tuple[Limit, ...] = ()  # its budgets, while its worker lives
    allowance_usd: float | None = None  # a session that has cost as much is ended
    late_fault: Fault | None = None  # the error of a stream, reported before the stream has ended
    fails_first: bool = False  # its first attempt must fail (`lm test --fallback`)
    hides_usage: bool = False  # we asked for the usage of its stream; the client did not, and must not get it
    deadline_passed: bool = False  # LITELLM_DEADLINE
    has_credentials: bool = False  # the client sent a provider's key; its failures do not concern our keys
    key_id: int | None = None  # of the client's key, where its tokens in a minute are limited
    units: float | None = None  # images, characters or seconds of audio; a flat price is for each of them
    cost_usd: float | None = None  # set at the end
    client_key: str | None = None  # the client's Idempotency-Key or x-request-id: the same for its retry
    asked: dict[str, Any] | None = None  # what headers, metadata or models.yaml demanded of its routing
    reported: tuple[Any, float | None] | None = None  # usage and cost from LiteLLM's log event, if it came first
    trace: Any = None  # the ids of its spans, while traces are on

    def close(self, outcome: str, fault: Fault | None = None) -> None:
        """End the request, and its last attempt with this outcome."""
        self.ended = True
        if self.attempts:
            self.attempts[-1].close(outcome, fault)

    def is_client_fault(self, attempt: Attempt) -> bool:
        """Return whether a failure of this attempt is the client's: an unreadable request, or the client's own key."""
        return attempt.unreadable or self.has_credentials

    @property
    def fallbacks(self) -> int:
        """How often the request went on to another deployment."""
        names = [attempt.deployment for attempt in self.attempts]
        return sum(1 for before, after in zip(names, names[1:], strict=False) if before != after)

    def elapsed_ms(self) -> float:
        """Return the milliseconds since the start, by the monotonic clock."""
        return (time.perf_counter() - self.clock) * 1000


@dataclass(frozen=True, slots=True)
class ExceededLimit:
    """A budget that is used up. With ``waiting``, the reservations of open requests may use it up. In USD."""

    limit: Limit
    spent: float
    waiting: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a record.

    ``durable``: it is in the ledger or the spool file. ``exceeded``: the budget that does not admit it. ``checked``: its
    limits were compared with the spending. ``late``: the result came too late; the record may still be written.
    ``room_usd``: what the budgets had left, in US dollars; None without any.
    """

    durable: bool
    exceeded: ExceededLimit | None = None
    checked: bool = True
    late: bool = False
    room_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """Record: a request is about to go to a provider. It is only recorded if its ``limits`` admit it."""

    call: Call
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """Record: a request has ended. It makes the row when the start was never written."""

    call: Call
    status: str
    ended_at: float
    latency_ms: float
    usage: Usage = Usage()
    cost_usd: float | None = None
    cache_hit: bool = False
    fault: Fault | None = None
    cost_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Record: requests that the gate refused in one minute (Unix minutes), counted for each reason.

    ``last``: time (Unix seconds), address, path and reason of the last ones. None of them has a row.
    """

    minute: int
    counts: dict[str, int]
    last: tuple[tuple[float, str, str, str], ...] = ()


Record = Started | Ended | Refused


def dump(record: Record) -> str:
    """Return a record as one line of JSON, for the spool file."""
    if isinstance(record, Refused):
        return json.dumps({"kind": "Refused", **asdict(record)}, separators=(",", ":"))
    call = replace(record.call, clock=0.0, reported=None, late_fault=None, limits=(), trace=None)
    fields = asdict(replace(record, call=call))
    fields.pop("limits", None)  # a record in the spool file has been admitted
    return json.dumps({"kind": type(record).__name__, **fields}, separators=(",", ":"), default=str)


def load(line: str) -> Record:
    """Return the record in a line of JSON. Raise ValueError, KeyError or TypeError when there is none."""
    fields = json.loads(line)
    kind = fields.pop("kind")
    if kind == "Refused":
        return Refused(fields["minute"], fields["counts"], tuple(tuple(one) for one in fields["last"]))
    call = fields["call"]
    call["attribution"] = Attribution(**{**call["attribution"], "tags": tuple(call["attribution"]["tags"])})
    call["limited"], call["limits"] = tuple(call.get("limited", ())), ()
    call["attempts"] = [_attempt(one) for one in call["attempts"]]
    made = Call(**_known(Call, call))
    if kind == "Started":
        return Started(made)
    return Ended(**{**fields, "call": made, "usage": Usage(**fields["usage"]), "fault": _fault(fields["fault"])})


def _attempt(given: dict[str, Any]) -> Attempt:
    rates, flat = given.get("rates"), given.get("flat_price")
    made = {"own_price": False, **_known(Attempt, given)}
    pairs = {"rates": tuple(rates) if rates else None, "flat_price": tuple(flat) if flat else None}
    return Attempt(**{**made, **pairs, "fault": _fault(given["fault"])})


def _known(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """Return only the fields of today: an older version may have written the spool file."""
    names = {f.name for f in dataclass_fields(kind)}
    return {name: value for name, value in given.items() if name in names}


def _fault(fields: dict[str, Any] | None) -> Fault | None:
    return Fault(**fields) if fields else None
