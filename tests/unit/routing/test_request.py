"""A request is read once: what its headers, metadata and body say."""

from typing import Any

import pytest

from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import RoutingOptions, parse_options, read

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.mark.parametrize(
    ("headers", "says"),
    [({"x-lm-tier": "best"}, "x-lm-tier: 'best'"), ({"x-lm-max-cost": "cheap"}, "x-lm-max-cost"), ({"x-lm-max-cost": "-1"}, "US dollars"), ({"x-lm-max-cost": "nan"}, "US dollars"), ({"x-task-budget": "much"}, "x-task-budget")],
)  # fmt: skip
def test_a_bad_header_is_a_400_that_names_it(headers: dict[str, str], says: str) -> None:
    with pytest.raises(RefusalError, match=says) as refusal:
        read(BODY, headers, "acompletion", task="t")
    assert refusal.value.status == 400


def test_a_task_budget_needs_a_task() -> None:
    with pytest.raises(RefusalError, match="x-task-id"):
        read(BODY, {"x-task-budget": "1"}, "acompletion")
    assert read(BODY, {"x-task-budget": "1"}, "acompletion", task="t").task_budget == 1.0


def test_headers_count_before_metadata() -> None:
    assert parse_options({"x-lm-tier": "cheap"}, {"lm_tier": "premium", "lm_max_cost": 0.5}) == RoutingOptions(
        "cheap", 0.5
    )
    assert parse_options({}, {"lm_no_fallback": True}) == RoutingOptions(no_fallback=True)
    assert parse_options({"x-lm-no-fallback": "0"}, {}) == RoutingOptions()


@pytest.mark.parametrize(
    ("body", "headers", "field", "value"),
    [
        ({"model": ["a"]}, {}, "model", None),
        ({}, {"content-length": "80"}, "size", 80),
        ({}, {"content-length": "8٠"}, "size", None),
        ({}, {}, "size", None),
        ({"api_key": "sk-mine"}, {}, "has_credentials", True),
        ({"extra_headers": {}}, {}, "has_credentials", True),
        (
            {"provider_specific_header": {"extra_headers": {"Authorization": "Bearer mine"}}},
            {},
            "has_credentials",
            True,
        ),
        (
            {
                "provider_specific_header": [
                    {"extra_headers": {"anthropic-beta": "b"}},
                    {"extra_headers": {"authorization": "Bearer sk-ant-oat01-x"}},
                ]
            },
            {},
            "has_credentials",
            True,
        ),
        (
            {"provider_specific_header": {"extra_headers": {"anthropic-beta": "b", "anthropic-version": "v"}}},
            {},
            "has_credentials",
            False,
        ),
        ({}, {}, "has_credentials", False),
        ({"fallbacks": ["a"]}, {}, "has_fallbacks", True),
        ({"context_window_fallbacks": [{}]}, {}, "has_fallbacks", True),
        ({}, {"x-lm-drill": "1"}, "fails_first", True),
        ({"metadata": "text"}, {}, "options", RoutingOptions()),
    ],
)
def test_what_is_read_of_a_request(body: dict[str, Any], headers: dict[str, str], field: str, value: object) -> None:
    assert getattr(read({**BODY, **body}, headers, "acompletion"), field) == value


@pytest.mark.parametrize(
    ("size", "limit", "context", "fits"),
    [(100, None, 100, True), (101, None, 100, False), (None, None, 10**6, False), (60, 50, 100, False)],
)
def test_a_request_surely_fits_where_its_bytes_and_its_answer_do(
    size: int | None, limit: int | None, context: int, fits: bool
) -> None:
    headers = {} if size is None else {"content-length": str(size)}
    assert read({**BODY, "max_tokens": limit}, headers, "acompletion").fits(context) is fits
