"""What is kept of an error: no key, no word of the request, and whose fault it was."""

import itertools
import json
import logging
import sys

import httpx
import pytest

from lmstack.gateway.app import logfilter
from lmstack.gateway.calls import error_text, faults, fields
from lmstack.gateway.calls.usage import usage_of
from lmstack.ledger.records import Usage


@pytest.mark.parametrize(
    "text",
    ["key sk-abcdef123456 x", "Bearer abc.def", "AIzaSyA1234567890", "https://x/?key=abc&b", "my own-secret-value"],
)
def test_anything_that_looks_like_a_key_is_cut_out(text: str) -> None:
    assert "***" in fields.redact(text, ("own-secret-value",))


def test_ordinary_words_are_left_alone_and_long_text_is_cut() -> None:
    assert fields.redact("task-embeddings disk-usage", ()) == "task-embeddings disk-usage"
    assert len(fields.redact("x" * 5000, ())) == fields.MAX_MESSAGE


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
            Usage(5, 2, 3, None),
        ),
        (
            {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 1},
            Usage(16, 2, 10, None),
        ),
        (
            {"prompt_tokens": 1, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}},
            Usage(1, 9, None, 7),
        ),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": 4, "cachedContentTokenCount": 3},
            Usage(9, 6, 3, 4),
        ),
        ({"promptTokenCount": 9}, Usage(9)),
        (None, Usage()),
        ({}, Usage()),
        ({"prompt_tokens": float("nan"), "completion_tokens": 10**30}, Usage()),
        ({"prompt_tokens": -1_000_000, "completion_tokens": float("inf")}, Usage()),
    ],
)
def test_usage_is_read_in_every_dialect(usage: object, expected: Usage) -> None:
    assert usage_of(usage) == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("AnthropicException - 'image_url'\nReceived Messages=[{'content': 'a'}]", "AnthropicException - 'image_url'\nReceived Messages=***"),
        ("Invalid image - my grandmother's recipe for soup\nTraceback (most recent call last):\n  File", "Invalid image - ***"),
        ("bad prompt={'a': 'my grandmother\\'s recipe for \\u00e4pfel'} here", "bad prompt={'a': '***äpfel'} here"),
        ("element type is 'image_url' but missing", "element type is 'image_url' but missing"),
        ("no such pin: 0815 4711", "no such pin: ***"),
        ("refused\n\nLiteLLM: model group 'x' failed with the error above", "refused"),
        ("Unable to parse. Original Response: {\"content\": \"42\"}", "Unable to parse. Original Response:***"),
    ],
)  # fmt: skip
def test_an_error_is_kept_without_the_words_of_its_request(text: str, kept: str) -> None:
    blocks = [{"type": "image_url", "text": "my grandmother's recipe for soup"}, {"text": "0815 4711"}]
    assert error_text.message_of(text, {"messages": [{"role": "user", "content": blocks}]}) == kept


def test_a_long_request_is_compared_in_bounded_time() -> None:
    request = {"messages": [{"role": "user", "content": f"turn {n} " * 5_000} for n in range(50)]}
    assert sum(map(len, error_text._leaves(list(request.values())))) <= error_text._MAX_REQUEST
    told = error_text.message_of("x" * 1_000_000, request)
    assert told == "x" * len(told)
    assert 0 < len(told) < error_text._MAX_ERROR


def test_only_what_says_something_of_the_provider_is_blamed_on_it() -> None:
    def raised(*errors: Exception) -> Exception:
        for before, after in itertools.pairwise(errors):
            after.__context__ = before
        return errors[-1]

    wrapper = type("APIConnectionError", (Exception,), {})
    refused = raised(ConnectionRefusedError(), httpx.ConnectError("no"), wrapper("Connection error."))
    garbage = raised(json.JSONDecodeError("Expecting value", "<html>", 0), wrapper("no JSON"))
    shape = raised(AttributeError("'str' object has no attribute 'get'"), wrapper("'str' object"))
    header = raised(httpx.LocalProtocolError("Illegal header value"), wrapper("Connection error."))
    number = raised(ValueError("Out of range float values are not JSON compliant: nan"), wrapper("no"))
    assert [faults.is_provider_fault(e) for e in (refused, garbage, shape, header)] == [True, True, False, False]
    assert [faults.is_client_fault(e, False) for e in (shape, wrapper("credentials"))] == [True, False]
    assert [faults.is_client_fault(e, True) for e in (shape, header, number)] == [False, True, True]


def test_the_log_is_without_the_requests_words_and_a_broken_record_breaks_nobody() -> None:
    request = {"messages": [{"role": "user", "content": "my grandmother's recipe for soup"}]}
    redact = logfilter.RedactionFilter(lambda: request).filter

    def record(level: int, text: str, *args: object) -> logging.LogRecord:
        try:
            raise ValueError("no: my grandmother's recipe for soup")
        except ValueError:
            made = logging.LogRecord("LiteLLM", level, "f.py", 1, text, args, sys.exc_info())
        assert redact(made)
        return made

    error = record(logging.ERROR, "failed: %s", "my grandmother's recipe for soup")
    assert error.getMessage() == "failed: ***"
    assert error.exc_text is not None
    assert error.exc_text.endswith("ValueError: no: ***")
    assert "raise ValueError" in error.exc_text
    assert "recipe" in record(logging.DEBUG, "%s", "my grandmother's recipe for soup").getMessage()
    with pytest.raises(TypeError):
        record(logging.ERROR, "%s %s", "one").getMessage()  # as without us


def test_a_traceback_that_litellm_has_cut_is_redacted_behind_the_cut() -> None:
    request = {"messages": [{"role": "user", "content": "my grandmother's recipe for soup"}]}
    made = logging.LogRecord("LiteLLM", logging.ERROR, "f.py", 1, "failed", (), (ValueError, ValueError("no"), None))
    made.exc_text = (
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    return g()\n'
        '  File "b.py", line 2, in g\n    raise ValueError(f"Unsu... (litellm_truncated skipped 99 chars.) ...r: no: '
        "my grandmother's recipe for soup\n"
    )
    assert logfilter.RedactionFilter(lambda: request).filter(made)
    assert "recipe" not in made.exc_text
    assert "return g()" in made.exc_text
