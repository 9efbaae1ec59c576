"""What an answer cost, by its price, its usage and LiteLLM's report."""

from dataclasses import replace
from typing import Any

import pytest
from fastapi import HTTPException

from lmstack.gateway.calls.costs import cost_of, estimate_broken_stream, estimate_given_up, is_assumed
from lmstack.ledger.records import Attempt, Attribution, Call, Fault, Usage

RATES = (1.0, 2.0)
TEN = Usage(10, 10)


def a_call(**attempt: Any) -> Call:
    made = {"rates": RATES, "own_price": False, **attempt}
    call = Call("r", None, None, 0.0, "/", False, "m", Attribution())
    call.attempts.append(Attempt("m", "m", "p", "p/nobody-knows-it", 1, started_at=0.0, **made))
    return call


@pytest.mark.parametrize(
    ("model", "cost"),
    [(None, 0.0), ("openai/omni-moderation-latest", 0.0), ("openai/own-moderation", None)],
)
def test_a_moderation_that_costs_nothing_is_no_unknown_cost(model: str | None, cost: float | None) -> None:
    call = a_call(kind="amoderation", rates=None)
    call.attempts[0] = replace(call.attempts[0], litellm_model=model)
    assert cost_of(call, None, Usage(), None) == cost


@pytest.mark.parametrize(
    ("attempt", "tokens", "reported", "cost"),
    [
        ({}, TEN, 0.5, 0.5),
        ({}, TEN, None, None),  # LiteLLM's map does not know the model
        ({"own_price": True}, TEN, 0.5, 30e-6),
        ({"rates": (0.0, 0.0)}, TEN, 0.5, 0.0),
        ({"rates": (0.0, 0.0)}, Usage(), None, 0.0),
        ({"rates": None}, TEN, 0.5, None),
        ({"rates": None, "kind": "aimage_generation"}, TEN, 0.5, 0.5),
        ({"rates": None, "kind": "aimage_generation"}, Usage(), 0.04, 0.04),
        ({"rates": None, "kind": "atranscription"}, Usage(), 0.0, None),
        ({}, Usage(), 0.5, 0.5),
        ({}, Usage(0, 0), 0.0, None),
        ({}, TEN, float("nan"), None),
        ({}, TEN, float("inf"), None),
        ({}, TEN, -1.0, None),
        ({}, TEN, 1e9, None),
        ({"own_price": True}, Usage(10**9, 10**9), None, 3000.0),
    ],
)
def test_the_cost_of_an_answer(
    attempt: dict[str, Any], tokens: Usage, reported: float | None, cost: float | None
) -> None:
    assert cost_of(a_call(**attempt), None, tokens, reported) == (cost if cost is None else pytest.approx(cost))


@pytest.mark.parametrize(
    ("price", "units", "cost"),
    [
        (("per_image", 0.04), 3, 0.12),
        (("per_second", 0.01), 1.5, 0.015),
        (("per_second", 0.01), None, None),
        (("per_request", 0.5), None, 0.5),
        (("per_request", 0.5), 3, 0.5),
    ],
)
def test_a_flat_price_is_charged_whatever_litellm_reports(
    price: tuple[str, float], units: float | None, cost: float | None
) -> None:
    call = a_call(flat_price=price, rates=None, kind="aimage_generation")
    call.units = units
    assert cost_of(call, None, TEN, 9.0) == (cost if cost is None else pytest.approx(cost))


@pytest.mark.parametrize(("kind", "cost"), [("acreate_file", 0.0), ("acreate_batch", None), ("acompletion", None)])
def test_a_price_per_request_is_for_the_calls_that_are_sold_so(kind: str, cost: float | None) -> None:
    assert cost_of(a_call(flat_price=("per_request", 0.5), rates=None, kind=kind), None, Usage(), 0.0) == cost


@pytest.mark.parametrize("cost", [0.5, 0.0, None])
def test_a_batch_costs_what_the_user_has_set_and_that_is_assumed(cost: float | None) -> None:
    call = a_call(kind="acreate_batch", rates=(0.0, 0.0), flat_price=("per_request", 9.0))
    call.estimate_usd = cost
    assert cost_of(call, None, TEN, 7.0) == cost
    assert is_assumed(call)
    assert not is_assumed(a_call(kind="acompletion"))


def test_a_call_without_any_attempt_has_no_cost() -> None:
    call = a_call()
    call.attempts = []
    assert cost_of(call, None, TEN, 0.5) is None
    assert estimate_broken_stream(call, TEN, 10, 10) is None


@pytest.mark.parametrize(
    ("attempt", "prompt", "cost"),
    [
        ({"sent": True}, None, (100 + 2 * 10) / 1e6),
        ({"sent": True}, 50, (50 + 2 * 10) / 1e6),
        ({"sent": False}, None, None),
        ({"sent": True, "rates": None}, None, None),
    ],
)
def test_the_estimate_of_a_broken_stream(attempt: dict[str, Any], prompt: int | None, cost: float | None) -> None:
    found = estimate_broken_stream(a_call(**attempt), Usage(prompt), tokens_in=100, characters_out=39)
    assert found == (cost if cost is None else pytest.approx(cost))


LEFT, TIMEOUT, BROKEN = (HTTPException(status, "no") for status in (499, 408, 500))


@pytest.mark.parametrize(
    ("error", "sent", "fault", "budgeted", "cost"),
    [
        (LEFT, True, None, True, 0.5),
        (LEFT, True, None, False, 0.1),
        (LEFT, False, None, True, None),  # no provider had it yet
        (TIMEOUT, True, "Timeout", True, 0.5),
        (TIMEOUT, True, "Timeout", False, None),
        (TIMEOUT, False, "Timeout", True, None),
        (BROKEN, True, "InternalServerError", True, None),
    ],
)
def test_a_request_that_is_given_up_while_a_provider_has_it_is_charged(
    error: HTTPException, sent: bool, fault: str | None, budgeted: bool, cost: float | None
) -> None:
    call = a_call(sent=sent, fault=Fault(fault, None, "no") if fault else None)
    call.budgeted, call.reserved_usd, call.estimate_usd = budgeted, 0.5, 0.1
    assert estimate_given_up(call, error) == cost
