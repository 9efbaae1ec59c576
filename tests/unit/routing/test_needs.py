"""What a request needs of a model: the tokens and abilities that are read from its body."""

from typing import Any

import pytest

from lmstack.routing import needs
from lmstack.routing.needs import needs_of, user_texts

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
    assert ("vision" in found.capabilities) is sees


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
        ({"contents": [], "generationConfig": {"maxOutputTokens": 60000}}, 60_000, 1),
        # LiteLLM passes on none of these to another provider, so they limit nothing.
        ({"contents": [], "generationConfig": {"max_output_tokens": 1}}, 1000, 1),
        ({"contents": [], "max_tokens": 1}, 1000, 1),
        ({"contents": [], "config": {}, "generationConfig": {"maxOutputTokens": 1}}, 1000, 1),
        ({"max_tokens": True}, 1000, 1),
        ({"max_tokens": -5}, 1000, 1),
        ({"max_completion_tokens": 50, "n": 3}, 50, 3),
        ({"n": "5.0"}, 1000, 5),
        ({"n": "1e1"}, 1000, 10),
        ({"n": "nan"}, 1000, 1),
        ({"n": "inf"}, 1000, 128),
        ({"n": "x"}, 1000, 1),
        ({"n": 10**400}, 1000, 128),
        ({"generationConfig": {"candidateCount": 4}}, 1000, 4),
        ({"prompt": ["a", "b", "c"], "n": 2}, 1000, 6),
        ({"prompt": [1, 2, 3]}, 1000, 1),
        ({"prompt": [[1, 2], [3]]}, 1000, 2),
        ({"prompt": ["a"] * 10_000}, 1000, 2048),
    ],
)
def test_numbers_that_a_client_controls_are_bounded(body: dict[str, Any], out: int, choices: int) -> None:
    found = needs_of(body)
    assert (found.tokens_out, found.choices) == (out, choices)


def test_ids_of_tokens_and_documents_are_counted() -> None:
    assert needs_of({"input": [[1] * 8000] * 5}).tokens_in == 40_000
    assert needs_of({"query": "what " * 40, "documents": ["words " * 100]}).tokens_in >= 190


def test_only_so_many_pieces_of_a_body_are_looked_at() -> None:
    assert needs_of({"input": ["x"] * 200_000}).tokens_in <= needs.MAX_PARTS


def test_user_turns_are_read_from_every_shape() -> None:
    blocks = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, {"role": "tool", "content": "b"}]  # fmt: skip
    assert user_texts(blocks) == ["a"]
    assert user_texts("plain") == ["plain"]
    assert user_texts(None) == []


def test_parts_that_are_not_looked_at_count_by_the_length_of_the_body() -> None:
    assert needs_of({"input": ["word " * 20] * 60_000}, 6_000_000).tokens_in == 1_500_000
