"""The error for a request that routing refuses, and its texts. Pure."""

from collections.abc import Iterable
from typing import Any

from lmstack.routing.candidates import Candidate
from lmstack.routing.needs import Needs


class RefusalError(Exception):
    """A request that cannot be served as it asks. ``fields`` are added to the error body beside the message.

    ``headers`` are added to the headers of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.headers: dict[str, str] = {}
        self.status, self.kind, self.message, self.fields = status, kind, message, fields


def invalid(param: str, problem: str) -> RefusalError:
    """Return the 400 for a header or a field of the body that has a wrong value."""
    return RefusalError(400, "invalid_request_error", f"{param}: {problem}", param=param)


def no_capable_model(name: str, reasons: Iterable[tuple[Candidate, str]]) -> RefusalError:
    """Return the 400 for a request that no model of ``name`` can take. ``reasons``: what each of them lacks."""
    text = "; ".join(f"{candidate.name} {reason}" for candidate, reason in reasons)
    return RefusalError(400, "no_capable_model", f"No model behind '{name}' can take this request: {text}.")


def model_unsuitable(name: str, reason: str) -> RefusalError:
    """Return the 400 for a model that cannot serve the request, where the client allows no other."""
    return RefusalError(400, "model_unsuitable", f"{name} {reason}, and x-lm-no-fallback forbids another model.")


def max_cost_exceeded(name: str, needs: Needs, max_cost: float, able: Iterable[Candidate]) -> RefusalError:
    """Return the 400 for a request that no capable model serves for ``max_cost`` US dollars."""
    priced = [(cost, c.name) for c in able if (cost := c.cost(needs.tokens_in, needs.paid_out)) is not None]
    cheapest = min(priced, default=None)
    best = "no capable model has a known price"
    if cheapest is not None:
        best = f"the cheapest capable model, {cheapest[1]}, is estimated at {cheapest[0]:.6f} USD"
    return RefusalError(
        400, "max_cost_exceeded",
        f"Nothing behind '{name}' fits x-lm-max-cost {max_cost:g} USD: {best} "
        f"({needs.tokens_in} tokens in, {needs.tokens_out} out).",
        max_cost_usd=max_cost, estimate_usd=cheapest[0] if cheapest else None,
    )  # fmt: skip


def model_not_allowed(name: str | None, key: str | None) -> RefusalError:
    """Return the 403 for a model that a key may not use. It does not tell whether the model is served."""
    what = f"the model '{name[:100]}'" if name else "a call that names no model"
    text = f"model: the key '{key}' may not use {what}. GET /v1/models lists its models."
    return RefusalError(403, "model_not_allowed", text, param="model")


def cost_unknown(model: str | None, call_type: str) -> RefusalError:
    """Return the 400 for a call under a budget, when its cost cannot be known in advance: a budget fails closed."""
    name = f"'{model}'" if model else "this request"
    way_out = (
        "Set the model's price in models.yaml: input and output, in USD per million tokens, or a flat price such as per_image. "
        "Or send the request without a budget. `lm models` lists the names and prices."
    )
    if call_type.endswith("create_batch"):
        way_out = (
            "A batch may hold any number of requests. Set per_batch in models.yaml, in USD for each new batch, for the model that "
            "names the provider (the model of the file, or x-litellm-model). Or send the requests one by one, or the batch without a budget."
        )
    return RefusalError(
        400, "cost_unknown",
        f"A budget applies to this request, and the cost of {name} ({call_type}) cannot be known in advance. {way_out}",
    )  # fmt: skip
