"""Routing decisions, without a proxy: walks, wishes, needs, limits, the classifier."""

import re
from typing import Any

import pytest

from lmstack.catalog.models import parse_catalog
from lmstack.config.modelsfile import set_budget
from lmstack.routing import classify, needs
from lmstack.routing.budgets import Limit, limits_for
from lmstack.routing.candidates import GROUPS, Candidate, heirs, walk
from lmstack.routing.classify import HEAD, TAIL, conversation_group, decide
from lmstack.routing.needs import needs_of, tokens_of, user_texts
from lmstack.routing.policy import Defaults, Models, RefusalError, Wishes, choose, parse_wishes
from lmstack.stack.project import shipped_catalog
from support import ROOT

ALL = frozenset({"tools", "vision", "json"})
LOCAL = Candidate("local", "ollama", 1, (0.0, 0.0), 8_000, frozenset({"tools"}), "local")
SMALL = Candidate("small", "a", 1, (0.1, 0.5), 100_000, ALL, "small")
OTHER = Candidate("other", "b", 1, (0.1, 0.5), 1_000_000, ALL, "other")
SAME = Candidate("same", "a", 1, (0.1, 0.5), 100_000, ALL, "same")
MID = Candidate("mid", "a", 2, (1.0, 5.0), 200_000, ALL, "mid")
BIG = Candidate("big", "b", 3, (10.0, 50.0), 1_000_000, ALL, "big")
UNPRICED = Candidate("unpriced", "c", 1, None, None, None, "unpriced")
MODELS = Models((LOCAL, SMALL, OTHER, SAME, MID, BIG, UNPRICED))
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}


def names(model: str, body: dict[str, Any] | None = None, **wishes: Any) -> list[str]:
    way = choose(MODELS, model, Wishes(**wishes), needs_of(body or HELLO), lambda: "cheap")
    assert way is not None
    return [way.model] if way.fallbacks is None else [way.model, *way.fallbacks]


def test_at_equal_price_local_comes_first_and_providers_take_turns() -> None:
    free = Candidate("afree", "z", 1, (0.0, 0.0), None, None, "afree")
    order = [c.name for c in walk((SMALL, SAME, OTHER, UNPRICED, LOCAL, free), GROUPS["cheap"])]
    assert order == ["afree", "local", "other", "same", "small", "unpriced"]


def test_a_second_door_to_the_same_model_is_not_tried() -> None:
    old = Candidate("old", "a", 1, (0.1, 0.5), 100_000, ALL, "small", heir=True)
    assert [c.name for c in heirs((SMALL, old, MID), old)] == ["mid"]
    assert "old" not in [c.name for c in walk((SMALL, old, MID), GROUPS["cheap"])]


def test_without_a_wish_the_configured_order_stays() -> None:
    assert names("cheap") == ["cheap"]
    assert names("auto") == ["auto"]
    assert names("small") == ["small"]
    assert choose(MODELS, "text-embedding", Wishes(), needs_of(HELLO), lambda: "cheap") is None


def test_images_tools_and_json_go_to_those_that_can() -> None:
    image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}]}
    assert "local" not in names("cheap", image)
    assert names("local", image)[0] == "other"
    assert names("cheap", {**HELLO, "tools": [{}]}) == ["cheap"]
    assert "local" not in names("cheap", {**HELLO, "response_format": {"type": "json_object"}})
    only = Models((LOCAL,))
    with pytest.raises(RefusalError, match="local cannot do vision"):
        choose(only, "cheap", Wishes(), needs_of(image), lambda: "cheap")


def test_a_long_prompt_goes_to_the_cheapest_with_room() -> None:
    long = {"messages": [{"role": "user", "content": "word " * 120_000}]}
    assert names("small", long) == ["other", "mid", "big", "unpriced"]
    with pytest.raises(RefusalError, match="has room for 8000 tokens"):
        choose(Models((LOCAL,)), "local", Wishes(), needs_of(long), lambda: "cheap")


def test_max_cost_keeps_what_fits_and_never_an_unknown_price() -> None:
    assert names("premium", max_cost=0.01)[0] == "mid"
    assert names("premium", max_cost=0.001) == ["local", "other", "same", "small"]
    assert "unpriced" not in names("premium", max_cost=1.0)
    with pytest.raises(RefusalError) as refusal:
        choose(Models((MID, BIG)), "premium", Wishes(max_cost=0.0001), needs_of(HELLO), lambda: "cheap")
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


@pytest.mark.parametrize(
    ("headers", "says"),
    [({"x-lm-tier": "best"}, "x-lm-tier: 'best'"), ({"x-lm-max-cost": "cheap"}, "x-lm-max-cost"), ({"x-lm-max-cost": "-1"}, "US dollars"), ({"x-lm-max-cost": "nan"}, "US dollars")],
)  # fmt: skip
def test_a_bad_header_is_a_400_that_names_it(headers: dict[str, str], says: str) -> None:
    with pytest.raises(RefusalError, match=says) as refusal:
        parse_wishes(headers, {})
    assert refusal.value.status == 400


def test_headers_count_before_metadata_and_a_task_before_its_agent() -> None:
    assert parse_wishes({"x-lm-tier": "cheap"}, {"lm_tier": "premium", "lm_max_cost": 0.5}) == Wishes("cheap", 0.5)
    defaults = Defaults({"T": Wishes("cheap")}, {"A": Wishes("premium", 0.1)})
    assert defaults.of("T", "A") == Wishes("cheap", 0.1)
    assert defaults.of(None, None) == Wishes()


def test_an_own_limit_replaces_the_one_for_everybody() -> None:
    rules = (Limit("task", "*", "total", 1.0), Limit("task", "T", "total", 5.0), Limit("all", "", "day", 9.0))
    assert {(x.name, x.usd) for x in limits_for(rules, "T", None, None)} == {("T", 5.0), ("", 9.0)}
    assert {(x.name, x.usd) for x in limits_for(rules, "U", "A", 0.2)} == {("U", 1.0), ("", 9.0), ("U", 0.2)}
    assert limits_for((), None, None, None) == ()


def test_a_daily_limit_resets_at_midnight_utc() -> None:
    (limit,) = limits_for((Limit("all", "", "day", 1.0),), None, None, None)
    assert limit.refusal(1.5, 1_795_446_500)["resets_at"] == "2026-11-24T00:00:00+00:00"


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("Hello!", "cheap"),
        ("Translate 'good night' into Italian.", "cheap"),
        ("Prove that every finite integral domain is a field.", "premium"),
        ("Beweise, dass es unendlich viele Primzahlen gibt, und verallgemeinere den Satz.", "premium"),
        ("证明素数有无穷多个，并推广。", "premium"),
    ],
)
def test_the_classifier_tells_easy_from_hard(text: str, group: str) -> None:
    assert decide(text).group == group


def test_a_conversation_never_goes_down_a_tier() -> None:
    hard, thanks = "Prove that there are infinitely many primes, and derive the density.", "thanks"
    turns = [hard, *[f"thanks {n}" for n in range(30)]]
    groups = [conversation_group(turns[: n + 1]) for n in range(len(turns))]
    assert set(groups) == {"premium"}
    assert conversation_group([thanks]) == "cheap"
    assert conversation_group([]) == "cheap"


def test_only_a_bounded_part_of_a_prompt_is_looked_at() -> None:
    assert decide("x" * (HEAD + TAIL + 10)).score == decide("x" * 1_000_000).score


def test_user_turns_are_read_from_every_shape() -> None:
    blocks = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, {"role": "tool", "content": "b"}]  # fmt: skip
    assert user_texts(blocks) == ["a"]
    assert user_texts("plain") == ["plain"]
    assert user_texts(None) == []


def test_a_budget_is_written_without_losing_comments() -> None:
    text = "# my models\nmodels:\n  fast: {provider: openai, model: gpt-4o-mini}  # quick\n"
    new = set_budget(text, "task", "TM-1", "total", 0.5)
    assert new.startswith(text)
    assert "TM-1:" in new
    assert set_budget(new, "task", "TM-1", "total", None) == text
    assert set_budget("", "all", "", "day", 5.0) == "budgets:\n  all:\n    day: 5\n"


def test_the_documented_models_yaml_examples_are_valid() -> None:
    text = "".join((ROOT / "docs" / name).read_text() for name in ("routing.md", "providers.md"))
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(blocks) == 3
    for block in blocks:
        catalog = parse_catalog(shipped_catalog(), block)
    assert {"openrouter", "groq", "deepseek", "mistral", "azure"} <= catalog.providers.keys()
    assert catalog.models["codestral"].priced


LONG = "A" * 4_000_000  # 3 MB as base64


@pytest.mark.parametrize(
    ("block", "most", "sees"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + LONG}}, 1000, True),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": LONG}}, 1000, True),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": LONG}},
            100_000,
            False,
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + LONG}},
            100_000,
            False,
        ),
        ({"type": "file", "file": {"file_id": "file-1"}}, 2000, False),
        ({"type": "input_file", "file_data": LONG}, 100_000, False),
        ({"type": "input_audio", "input_audio": {"data": LONG, "format": "mp3"}}, 10_000, False),
        ({"inlineData": {"mimeType": "application/pdf", "data": LONG}}, 100_000, False),
        ({"inline_data": {"mime_type": "image/png", "data": LONG}}, 1000, True),
        ({"inlineData": {"mimeType": "video/mp4", "data": LONG}}, 10_000, False),
    ],
)
def test_a_file_is_not_counted_as_the_text_of_its_base64(block: dict[str, Any], most: int, sees: bool) -> None:
    found = needs_of({"messages": [{"role": "user", "content": [{"type": "text", "text": "Read this"}, block]}]})
    assert 0 < found.tokens_in <= most + 10
    assert ("vision" in found.can) is sees


def test_a_plain_document_is_counted_as_its_text() -> None:
    block = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 1000}}
    assert needs_of({"messages": [{"role": "user", "content": [block]}]}).tokens_in > 1000


@pytest.mark.parametrize(
    ("body", "out", "choices"),
    [
        ({"max_tokens": 10**400}, 100_000_000, 1),
        ({"max_tokens": "5"}, 5, 1),
        ({"max_tokens": 900000.0}, 900_000, 1),
        ({"max_completion_tokens": "x", "max_tokens": 7}, 7, 1),
        ({"max_tokens": float("nan")}, 1000, 1),
        ({"generationConfig": {"maxOutputTokens": 60000}}, 60_000, 1),
        ({"max_tokens": True}, 1000, 1),
        ({"max_tokens": -5}, 1000, 1),
        ({"max_completion_tokens": 50, "n": 3}, 50, 3),
        ({"n": 10**400}, 1000, 128),
    ],
)
def test_numbers_that_a_client_controls_are_bounded(body: dict[str, Any], out: int, choices: int) -> None:
    found = needs_of(body)
    assert (found.tokens_out, found.choices) == (out, choices)


def test_every_worker_gives_a_conversation_the_same_group() -> None:
    hard = (
        "Prove that the algorithm below terminates and derive its worst-case complexity. ```python\n"
        + "x = f(x)\n" * 40
    )
    turns = ["hello", hard, *(f"thanks, and now number {n}" for n in range(30))]
    seen_before = [conversation_group(turns[: n + 1]) for n in range(len(turns))][-1]
    classify._scores.clear()  # another worker, or a restart
    assert conversation_group(turns) == seen_before != "cheap"


def test_ids_of_tokens_and_documents_are_counted() -> None:
    assert needs_of({"input": [[1] * 8000] * 5}).tokens_in == 40_000
    assert needs_of({"query": "what " * 40, "documents": ["words " * 100]}).tokens_in >= 190


def test_only_so_many_pieces_of_a_body_are_looked_at() -> None:
    assert needs_of({"input": ["x"] * 200_000}).tokens_in <= needs.MAX_ITEMS
