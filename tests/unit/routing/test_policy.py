"""Where a request goes: the decision, without a proxy."""

from dataclasses import replace
from typing import Any

import pytest

from lmstack.routing.budgets import Limit
from lmstack.routing.candidates import GROUPS, Candidate, fallback_order, fallbacks_of
from lmstack.routing.needs import tokens_of
from lmstack.routing.policy import ChosenBy, Decision, Models, decide, decide_free
from lmstack.routing.prices import Price
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import Client, Request, RoutingOptions, read
from lmstack.routing.rules import RoutingRules

ALL = frozenset({"tools", "vision", "json"})
LOCAL = Candidate("local", "ollama", 1, (0.0, 0.0), 8_000, frozenset({"tools"}), "local")
SMALL = Candidate("small", "a", 1, (0.1, 0.5), 100_000, ALL, "small")
OTHER = Candidate("other", "b", 1, (0.1, 0.5), 1_000_000, ALL, "other")
SAME = Candidate("same", "a", 1, (0.1, 0.5), 100_000, ALL, "same")
MID = Candidate("mid", "a", 2, (1.0, 5.0), 200_000, ALL, "mid")
BIG = Candidate("big", "b", 3, (10.0, 50.0), 1_000_000, ALL, "big")
UNPRICED = Candidate("unpriced", "c", 1, None, None, None, "unpriced")
PRICES = {"vectors": Price((0.02, 0.0)), "pictures": Price(image=0.04), "small": Price((0.1, 0.5)), "local": Price((0.0, 0.0))}  # fmt: skip
MODELS = Models((LOCAL, SMALL, OTHER, SAME, MID, BIG, UNPRICED), PRICES)
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}]}
LIMIT = Limit("task", "t", "total", 1.0)


def request(model: str | None, body: dict[str, Any] | None = None, **fields: Any) -> Request:
    made = read(
        {**(body or HELLO), "model": model}, {}, fields.pop("call_type", "acompletion"), fields.pop("task", None)
    )
    return replace(made, **fields)


def names(model: str, body: dict[str, Any] | None = None, models: Models = MODELS, **options: Any) -> list[str]:
    """The name for LiteLLM, and the fallbacks that the decision lists."""
    found = decide(request(model, body, options=RoutingOptions(**options)), models, RoutingRules())
    return [str(found.model), *found.fallbacks]


def test_at_equal_price_local_comes_first_and_providers_take_turns() -> None:
    free = Candidate("afree", "z", 1, (0.0, 0.0), None, None, "afree")
    order = [c.name for c in fallback_order((SMALL, SAME, OTHER, UNPRICED, LOCAL, free), GROUPS["cheap"])]
    assert order == ["afree", "local", "other", "same", "small", "unpriced"]


def test_a_second_name_of_the_same_model_is_not_tried() -> None:
    old = Candidate("old", "a", 1, (0.1, 0.5), 100_000, ALL, "small", retired=True)
    assert [c.name for c in fallbacks_of((SMALL, old, MID), old)] == ["mid"]
    assert "old" not in [c.name for c in fallback_order((SMALL, old, MID), GROUPS["cheap"])]


@pytest.mark.parametrize(
    ("model", "fields", "limits", "route", "limited"),
    [
        ("small", {"size": 80}, (), ChosenBy.CONFIGURATION, False),
        ("cheap", {"size": 80}, (), ChosenBy.CONFIGURATION, False),
        ("auto", {"size": 80}, (), ChosenBy.CONFIGURATION, False),
        ("small", {"size": None}, (), ChosenBy.CONFIGURATION, False),
        ("small", {"size": 80}, (LIMIT,), ChosenBy.GATEWAY, True),  # without the model of unknown price
        ("premium", {"size": 80}, (LIMIT,), ChosenBy.GATEWAY, True),
        ("small", {"options": RoutingOptions(no_fallback=True)}, (LIMIT,), ChosenBy.GATEWAY, True),
        ("local", {"options": RoutingOptions(no_fallback=True)}, (LIMIT,), ChosenBy.GATEWAY, False),
        ("local", {}, (LIMIT,), ChosenBy.GATEWAY, True),  # a paid model may replace it
        ("auto", {"options": RoutingOptions("premium")}, (), ChosenBy.CONFIGURATION, False),
        ("cheap", {"options": RoutingOptions(max_cost=0.001)}, (), ChosenBy.GATEWAY, False),
        ("nobody", {}, (), ChosenBy.LITELLM, False),
        ("vectors", {"call_type": "aembedding"}, (LIMIT,), ChosenBy.LITELLM, True),
        ("local", {"call_type": "aembedding"}, (LIMIT,), ChosenBy.LITELLM, False),
        ("local", {"call_type": "aembedding", "has_fallbacks": True}, (LIMIT,), ChosenBy.LITELLM, True),
        ("pictures", {"call_type": "image_generation"}, (LIMIT,), ChosenBy.LITELLM, True),
        (None, {"call_type": "aget_responses"}, (LIMIT,), ChosenBy.LITELLM, False),
    ],
)
def test_who_chooses_the_model_and_whether_the_limits_apply(
    model: str | None, fields: dict[str, Any], limits: tuple[Limit, ...], route: ChosenBy, limited: bool
) -> None:
    found = decide(request(model, task="t", **fields), MODELS, RoutingRules(limits=limits))
    assert (found.chosen_by, bool(found.limits)) == (route, limited)


def test_most_requests_are_decided_without_reading_their_body() -> None:
    quick = Models((SMALL, BIG))
    asked = request("small", size=80)
    assert decide(asked, quick, RoutingRules()).first is None
    assert "needs" not in vars(asked)
    assert decide(request("small", {**HELLO, "max_tokens": 99_990}, size=80), quick, RoutingRules()).first is not None


@pytest.mark.parametrize(
    ("model", "options", "minimum", "reserved"),
    [
        ("small", RoutingOptions(), 80 / 4 * 0.1 / 1e6, (3 * 0.1 + 1000 * 0.5) / 1e6),
        ("premium", RoutingOptions(), 80 / 4 * 10 / 1e6, (3 * 10 + 1000 * 50) / 1e6),
    ],
)
def test_a_decision_says_what_the_request_costs(
    model: str, options: RoutingOptions, minimum: float, reserved: float
) -> None:
    found = decide(request(model, size=80, task="t", options=options), MODELS, RoutingRules(limits=(LIMIT,)))
    assert found.minimum_usd == pytest.approx(minimum)
    assert found.reserved_usd == pytest.approx(reserved)


def test_without_a_budget_a_model_of_unknown_price_is_served_at_unknown_cost() -> None:
    found = decide(request("unpriced", size=80, task="t"), MODELS, RoutingRules())
    assert (found.model, found.minimum_usd) == ("unpriced", None)


@pytest.mark.parametrize("model", ["unpriced", "cheap", "auto", "small"])
def test_under_a_budget_only_models_of_known_price_are_tried(model: str) -> None:
    limited = RoutingRules(limits=(LIMIT,))
    found = decide(request(model, size=80, task="t"), MODELS, limited)
    tried = [str(found.model), *found.fallbacks]
    assert "unpriced" not in tried
    assert "small" in tried
    assert found.reserved_usd is not None
    free = decide(request(model if model != "small" else "local", task="t"), Models((LOCAL, UNPRICED)), limited)
    assert (free.model, free.fallbacks, free.limits) == ("local", (), ())


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("unpriced", {}),
        ("unpriced", {"options": RoutingOptions(no_fallback=True)}),
        ("cheap", {}),
        ("auto", {}),
        ("nobody", {}),
        ("openai/unpriced", {}),  # LiteLLM serves a deployment by this name too
        ("unpriced", {"call_type": "aembedding"}),
        ("unpriced", {"call_type": "agenerate_content"}),
        ("auto", {"call_type": "agenerate_content_stream"}),
    ],
)
def test_under_a_budget_a_request_that_only_models_of_unknown_price_can_serve_is_refused(
    model: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(RefusalError, match="input and output") as refusal:
        decide(
            request(model, task="t", **fields),
            Models((UNPRICED,), {"unpriced": Price()}),
            RoutingRules(limits=(LIMIT,)),
        )
    assert (refusal.value.status, refusal.value.kind) == (400, "cost_unknown")


def test_no_fallback_refuses_a_model_of_unknown_price_under_a_budget() -> None:
    asked = request("unpriced", task="t", options=RoutingOptions(no_fallback=True))
    with pytest.raises(RefusalError, match="'unpriced'"):
        decide(asked, MODELS, RoutingRules(limits=(LIMIT,)))


def test_images_tools_and_json_go_to_those_that_can() -> None:
    assert "local" not in names("cheap", IMAGE)
    assert names("local", IMAGE)[0] == "other"
    assert names("cheap", {**HELLO, "tools": [{}]}) == ["cheap"]
    assert "local" not in names("cheap", {**HELLO, "response_format": {"type": "json_object"}})
    with pytest.raises(RefusalError, match="local cannot do vision"):
        names("cheap", IMAGE, Models((LOCAL,)))


def test_a_long_prompt_goes_to_the_cheapest_with_room() -> None:
    long = {"messages": [{"role": "user", "content": "word " * 120_000}]}
    assert names("small", long) == ["other", "mid", "big", "unpriced"]
    with pytest.raises(RefusalError, match="has room for 8000 tokens"):
        names("local", long, Models((LOCAL,)))


def test_max_cost_keeps_what_fits_and_never_an_unknown_price() -> None:
    assert names("premium", max_cost=0.01)[0] == "mid"
    assert names("premium", max_cost=0.001) == ["local", "other", "same", "small"]
    assert "unpriced" not in names("premium", max_cost=1.0)
    with pytest.raises(RefusalError) as refusal:
        names("premium", None, Models((MID, BIG)), max_cost=0.0001)
    assert (refusal.value.status, refusal.value.kind) == (400, "max_cost_exceeded")
    assert refusal.value.fields["estimate_usd"] == pytest.approx(
        (tokens_of("Hello!") + tokens_of("user") + 1000 * 5) / 1e6
    )


def test_no_fallback_is_one_model() -> None:
    assert names("small", no_fallback=True) == ["small"]
    assert names("cheap", no_fallback=True) == ["local"]
    with pytest.raises(RefusalError, match="forbids another model"):
        names("big", no_fallback=True, max_cost=0.0001)


def test_a_tier_overrules_the_model() -> None:
    assert names("small", tier="premium") == ["premium"]


def test_a_tasks_wishes_count_before_its_agents_and_a_default_tier_only_for_auto() -> None:
    rules = RoutingRules({"T": RoutingOptions("cheap")}, {"A": RoutingOptions("premium", 0.1)})
    made = Request("acompletion", "auto", "T", "A")
    assert rules.options_of(made) == RoutingOptions("cheap", 0.1)
    assert rules.options_of(replace(made, task=None)) == RoutingOptions("premium", 0.1)
    assert rules.options_of(replace(made, model="small")) == RoutingOptions(None, 0.1)
    assert rules.options_of(replace(made, options=RoutingOptions("standard"))) == RoutingOptions("standard", 0.1)
    assert rules.options_of(Request("acompletion", "auto")) == RoutingOptions()


@pytest.mark.parametrize(
    ("model", "fields", "chosen"),
    [
        ("auto", {}, ["local"]),
        ("cheap", {"options": RoutingOptions(no_fallback=True)}, ["local"]),
        ("local", {}, ["local"]),
        ("small", {}, None),  # the client asked for a paid model by name
        ("nobody", {}, None),
        ("cheap", {"call_type": "aembedding"}, None),
        (None, {}, None),
    ],
)
def test_what_serves_a_request_whose_budget_is_used_up(
    model: str | None, fields: dict[str, Any], chosen: list[str] | None
) -> None:
    found = decide_free(request(model, **fields), MODELS)
    assert (found and [found.model, *found.fallbacks]) == chosen
    assert found is None or (found.chosen_by, found.limits, found.reserved_usd) == (ChosenBy.GATEWAY, (), 0.0)


def test_free_models_that_cannot_take_the_request_are_not_chosen() -> None:
    assert decide_free(request("cheap", IMAGE), MODELS) is None


@pytest.mark.parametrize("call_type", ["pass_through_endpoint", "_arealtime", "avideo_generation", "acreate_batch"])
def test_under_a_budget_a_call_of_unknown_cost_is_refused(call_type: str) -> None:
    def decided(limits: tuple[Limit, ...]) -> Decision:
        return decide(request("small", call_type=call_type, task="t"), MODELS, RoutingRules(limits=limits))

    assert decided(()).chosen_by is ChosenBy.LITELLM
    with pytest.raises(RefusalError, match="cannot be known in advance") as refusal:
        decided((LIMIT,))
    assert (refusal.value.status, refusal.value.kind) == (400, "cost_unknown")


def _only(*allowed: str, tiers: tuple[int, ...] = ()) -> Client:
    def allows(name: str, tier: int | None) -> bool:
        return (not allowed or name in allowed) and (not tiers or tier is None or tier in tiers)

    return Client(allows, key="k")


@pytest.mark.parametrize("body", [HELLO, IMAGE])
@pytest.mark.parametrize("model", ["auto", "cheap", "standard", "premium", "small", "mid"])
def test_every_try_is_a_model_of_the_key(model: str, body: dict[str, Any]) -> None:
    own = {"small", "mid", "big"}
    for options in ({}, {"tier": "premium"}, {"max_cost": 5.0}, {"no_fallback": True}):
        made = request(model, body, size=80, options=RoutingOptions(**options), client=_only(*own))
        found = decide(made, MODELS, RoutingRules())
        assert found.chosen_by is ChosenBy.GATEWAY
        assert {str(found.model), *found.fallbacks} <= own


@pytest.mark.parametrize("limits", [(), (LIMIT,)])
@pytest.mark.parametrize("model", ["big", "unknown", None])
@pytest.mark.parametrize("call_type", ["acompletion", "aembedding", "arerank", "amoderation"])
def test_a_model_that_the_key_may_not_use_is_refused_for_each_call(model: str | None, call_type: str, limits: tuple[Limit, ...]) -> None:  # fmt: skip
    made = request(model, call_type=call_type, client=_only("small", "vectors"))
    with pytest.raises(RefusalError) as refused:
        decide(made, MODELS, RoutingRules(limits=limits))
    assert (refused.value.status, refused.value.kind) == (403, "model_not_allowed")


@pytest.mark.parametrize("limits", [(), (LIMIT,)])
def test_a_key_for_some_tiers_may_not_use_the_providers_name_of_a_model(limits: tuple[Limit, ...]) -> None:
    """LiteLLM serves `openai/gpt-4o` as well as `gpt-4o`, and no tier is known for it."""
    made = request("provider/big", client=Client(lambda name, tier: tier in (None, 1), key="k"))
    with pytest.raises(RefusalError, match="may not use the model 'provider/big'"):
        decide(made, MODELS, RoutingRules(limits=limits))


def test_a_group_without_a_model_of_the_key_is_refused_and_free_models_too() -> None:
    made = request("cheap", client=_only("vectors"))
    with pytest.raises(RefusalError):
        decide(made, MODELS, RoutingRules())
    assert decide_free(made, MODELS) is None
    assert decide_free(request("cheap", client=_only("small")), MODELS) is None
    found = decide_free(request("cheap", client=_only("local", "small")), MODELS)
    assert found is not None
    assert (found.model, found.fallbacks) == ("local", ())


def test_a_call_that_litellm_routes_has_no_fallbacks_where_the_key_is_limited() -> None:
    made = request("vectors", call_type="aembedding", has_fallbacks=True, client=_only("vectors"))
    assert decide(made, MODELS, RoutingRules()).no_fallback
    assert not decide(replace(made, client=Client()), MODELS, RoutingRules()).no_fallback


@pytest.mark.parametrize("call_type", ["atranscription", "aembedding", "aimage_generation"])
def test_a_call_that_is_no_chat_does_not_fall_back_to_chat_models(call_type: str) -> None:
    assert decide(request("local", call_type=call_type), MODELS, RoutingRules()).no_fallback
    assert not decide(request("local", call_type=call_type, has_fallbacks=True), MODELS, RoutingRules()).no_fallback
    assert not decide(request("vectors", call_type=call_type), MODELS, RoutingRules()).no_fallback


def test_the_budgets_of_key_team_agent_task_and_everybody_all_apply() -> None:
    rules = RoutingRules(limits=(Limit("all", "", "day", 9), Limit("team", "*", "month", 8), Limit("key", "k", "day", 7), Limit("team", "other", "day", 1)))  # fmt: skip
    client = Client(budgets=(Limit("key", "k", "hour", 5),), key="k", team="t")
    found = rules.limits_of(request("small", task="t", task_budget=1.0, client=client))
    assert [(x.scope, x.name, x.period) for x in found] == [
        ("team", "t", "month"), ("all", "", "day"), ("key", "k", "day"), ("key", "k", "hour"), ("task", "t", "total"),
    ]  # fmt: skip
