"""One client request, read once into a frozen value. Pure: no LiteLLM, no clock, no environment."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lmstack.routing.budgets import Limit
from lmstack.routing.candidates import GROUPS
from lmstack.routing.classify import conversation_group
from lmstack.routing.native_gemini import needs_google
from lmstack.routing.needs import Needs, has_special_content, needs_of, output_limit, user_texts
from lmstack.routing.refusals import invalid

# The gateway knows the body and the fallbacks of these call types. All others keep LiteLLM's own routing.
NATIVE_GEMINI = frozenset({"agenerate_content", "agenerate_content_stream"})
ROUTED_CALLS = NATIVE_GEMINI | {"acompletion", "completion", "atext_completion", "text_completion", "anthropic_messages", "aresponses", "responses"}  # fmt: skip
# The fields of a body that carry a key or an account of the client.
_CREDENTIALS = ("api_key", "extra_headers", "headers", "organization")
# What LiteLLM itself puts into ``provider_specific_header``. Any other header there may be a key of the client.
_HARMLESS_HEADERS = frozenset({"anthropic-version", "anthropic-beta"})
# LiteLLM's lists of fallbacks for special errors.
SPECIAL_FALLBACKS = ("context_window_fallbacks", "content_policy_fallbacks")
_TRUE = ("1", "true", "on", "yes")


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """What a request, or models.yaml for its task or agent, demands of routing. ``max_cost`` is in US dollars."""

    tier: str | None = None
    max_cost: float | None = None
    no_fallback: bool = False

    def __bool__(self) -> bool:
        return self.tier is not None or self.max_cost is not None or self.no_fallback

    def completed_by(self, other: "RoutingOptions") -> "RoutingOptions":
        """Return these options, with those of ``other`` where a field is not set."""
        return replace(
            self, tier=self.tier or other.tier, max_cost=other.max_cost if self.max_cost is None else self.max_cost,
            no_fallback=self.no_fallback or other.no_fallback,
        )  # fmt: skip


NO_OPTIONS = RoutingOptions()


@dataclass(frozen=True, slots=True)
class Client:
    """What the key of a client adds to its requests.

    ``allows``: whether a model (its name, and the tier of a chat model) may answer; None: every model may. ``budgets``: its own
    limits. ``key`` and ``team``: the names that have budgets.
    """

    allows: Callable[[str, int | None], bool] | None = None
    budgets: tuple[Limit, ...] = ()
    key: str | None = None
    team: str | None = None


OPERATOR = Client()


@dataclass(frozen=True)
class Request:
    """What routing has to know of a request.

    ``model``: the requested name. ``task`` and ``agent``: who pays. ``task_budget``: the client's own limit in US
    dollars. ``size``: the length of the body in bytes, None when the client does not state it. ``body`` is only read,
    and only when ``needs`` or ``group`` is asked for: most requests need neither.
    """

    call_type: str
    model: str | None
    task: str | None = None
    agent: str | None = None
    options: RoutingOptions = NO_OPTIONS
    task_budget: float | None = None
    size: int | None = None
    has_credentials: bool = False  # the client sent a provider's key or headers
    has_fallbacks: bool = False  # the client sent models to fall back to
    fails_first: bool = False  # `lm test --fallback`: the first attempt must fail
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    client: Client = OPERATOR

    @property
    def is_routed(self) -> bool:
        """Return whether the gateway chooses the model for calls of this type."""
        return self.call_type in ROUTED_CALLS

    @cached_property
    def needs(self) -> Needs:
        """Return the capabilities and tokens that the request needs."""
        return needs_of(self.body, self.size)

    @cached_property
    def needs_google(self) -> bool:
        """Return whether only Google's own models get all of the request."""
        return self.call_type in NATIVE_GEMINI and needs_google(self.body)

    @cached_property
    def group(self) -> str:
        """Return the group that ``auto`` chooses for the request."""
        turns = (self.body.get(name) for name in ("messages", "input", "prompt", "contents"))
        return conversation_group(user_texts(next(filter(None, turns), None)))

    @property
    def has_special_content(self) -> bool:
        """Return whether a model may lack something that the request needs."""
        return has_special_content(self.body)

    def fits(self, context: int) -> bool:
        """Return whether the request surely fits into ``context`` tokens: n bytes are at most n tokens."""
        return self.size is not None and self.size + (output_limit(self.body) or 0) <= context


def read(
    body: Mapping[str, Any], headers: Mapping[str, str], call_type: str, task: str | None = None, agent: str | None = None,
    client: Client = OPERATOR,
) -> Request:  # fmt: skip
    """Read a request. ``headers`` have lower-case names. Raises RefusalError for a wrong value."""
    model, metadata = body.get("model"), body.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    return Request(
        call_type, model if isinstance(model, str) else None, task, agent, parse_options(headers, metadata),
        _task_budget(headers, metadata, task), _size(headers),
        has_credentials=_has_credentials(body),
        has_fallbacks=any(body.get(name) for name in ("fallbacks", *SPECIAL_FALLBACKS)),
        fails_first="x-lm-drill" in headers, body=body, client=client,
    )  # fmt: skip


def header_names(found: object) -> Iterator[str]:
    """Yield the names of headers in a body: an object, or LiteLLM's ``provider_specific_header``, which may be a list of them."""
    for one in found if isinstance(found, list) else [found]:
        inner = one.get("extra_headers", one) if isinstance(one, Mapping) else None
        yield from map(str, inner) if isinstance(inner, Mapping) else ()


def _has_credentials(body: Mapping[str, Any]) -> bool:
    """Return whether the client sent a provider's key or headers. Then a failure does not concern our keys."""
    if any(name in body for name in _CREDENTIALS):
        return True
    own = {name.lower() for name in header_names(body.get("provider_specific_header"))}
    return not own <= _HARMLESS_HEADERS


def parse_options(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> RoutingOptions:
    """Read x-lm-tier, x-lm-max-cost and x-lm-no-fallback, or ``lm_tier`` and so on in the body's metadata.

    Raises RefusalError for a wrong value.
    """
    tier, cost, alone = (option(headers, metadata, name) for name in ("lm-tier", "lm-max-cost", "lm-no-fallback"))
    if tier is None and cost is None and alone is None:
        return NO_OPTIONS
    if tier is not None and tier not in GROUPS:
        raise invalid("x-lm-tier", f"'{tier[:50]}' is not one of {', '.join(GROUPS)}.")
    return RoutingOptions(tier, None if cost is None else parse_usd("x-lm-max-cost", cost), alone in _TRUE)


def option(headers: Mapping[str, str], metadata: Mapping[str, Any], name: str) -> str | None:
    """Return the value of header ``x-NAME``, or of the body's metadata where the header is missing; in lower case.

    Metadata has underscores in place of hyphens.
    """
    value = headers.get(f"x-{name}")
    if value is None:
        value = metadata.get(name.replace("-", "_")) if metadata else None
    return None if value is None else str(value).strip().lower()


def parse_usd(name: str, text: str) -> float:
    """Return an amount in US dollars. Raises RefusalError when it is not a number, negative or too large."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise invalid(name, f"'{text[:50]}' is not US dollars such as 0.02.")
    return value


def _task_budget(headers: Mapping[str, str], metadata: Mapping[str, Any], task: str | None) -> float | None:
    text = option(headers, metadata, "task-budget")
    if text is None:
        return None
    if task is None:
        raise invalid("x-task-budget", "the header x-task-id is missing. It names the task that has this budget.")
    return parse_usd("x-task-budget", text)


def _size(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body in bytes; None when the client does not state it (a chunked body)."""
    text = headers.get("content-length") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
