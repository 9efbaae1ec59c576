"""What a call that the gateway does not route costs, before it is made."""

from typing import Any

import pytest

from lmstack.routing.prices import Price, estimate, is_free, is_management, price_from
from lmstack.routing.request import read

TOKENS = Price((1.0, 2.0))
FREE = Price((0.0, 0.0))
SPOKEN = {"mode": "realtime", "input_cost_per_token": 1e-6, "input_cost_per_audio_token": 3e-6, "output_cost_per_token": 2e-6, "output_cost_per_audio_token": 6e-6}  # fmt: skip
TALK = {
    "mode": "realtime", "input_cost_per_token": 4e-6, "input_cost_per_audio_token": 32e-6, "max_input_tokens": 1000,
    "output_cost_per_token": 16e-6, "output_cost_per_audio_token": 64e-6, "max_output_tokens": 100,
}  # fmt: skip


def cost(call_type: str, price: Price, body: dict[str, Any] | None = None, size: int | None = None) -> float | None:
    headers = {} if size is None else {"content-length": str(size)}
    return estimate(read({"model": "m", **(body or {})}, headers, call_type), price)


@pytest.mark.parametrize(
    ("call_type", "price", "body", "size", "usd"),
    [
        ("aembedding", TOKENS, {"input": "x" * 400}, None, 100 / 1e6),
        ("aembedding", TOKENS, {"input": [list(range(8000))] * 5}, None, 40_000 / 1e6),
        ("aembedding", Price(), {"input": "x"}, None, None),
        ("image_generation", Price(image=0.04), {"prompt": "a cat", "n": 3}, None, 0.12),
        ("image_generation", Price(), {"prompt": "a cat"}, None, None),
        ("aimage_edit", TOKENS, {"prompt": "a cat"}, None, 6300 * 2 / 1e6),
        ("aspeech", Price(character=1e-5), {"input": "x" * 500}, None, 0.005),
        ("aspeech", Price(character=1e-5), {"input": None}, None, None),
        ("transcription", Price(second=1e-4), {}, 2_000_000, 0.1),
        ("transcription", Price(second=1e-4), {}, None, None),
        ("rerank", Price(query=0.002), {"query": "q", "documents": ["d"] * 101}, None, 0.004),
        ("rerank", TOKENS, {"query": "q" * 400, "documents": []}, None, 100 / 1e6),
        ("moderation", FREE, {"input": "x"}, None, 0.0),
        ("agenerate_content", TOKENS, {"contents": "x" * 400, "generationConfig": {"maxOutputTokens": 50}}, None, 200 / 1e6),
        ("_arealtime", price_from(None, TALK), {}, None, 1000 * 32e-6 + 100 * 64e-6),
        ("_arealtime", price_from((10.0, 20.0), {}, mode="realtime"), {}, None, (32_000 * 10 + 4096 * 20) / 1e6),
        ("_arealtime", price_from(None, {"mode": "realtime"}), {}, None, None),
        ("aimage_edit", price_from(None, {}, ("per_image", 0.04)), {"prompt": "a cat", "n": "3"}, None, 0.12),
        ("aspeech", price_from(None, {}, ("per_character", 1e-5)), {"input": "x" * 500}, None, 0.005),
        ("transcription", price_from(None, {}, ("per_second", 1e-4)), {}, 2_000_000, 0.1),
        ("image_generation", price_from(None, {}, ("per_request", 0.5)), {"prompt": "a cat", "n": 3}, None, 0.5),
        ("amoderation", price_from(None, {"mode": "moderation"}, ("per_request", 0.5)), {"input": "x"}, None, 0.5),
        ("arerank", price_from((1.0, 1.0), {"input_cost_per_query": 9.0}, ("per_request", 0.5)), {"documents": []}, None, 0.5),
        ("_arealtime", price_from(None, SPOKEN), {}, None, (32_000 * 3 + 4_096 * 6) / 1e6),
        ("acreate_batch", price_from(None, {}, batch=0.5), {}, None, 0.5),
        ("acreate_batch", price_from(None, {}, ("per_request", 9.0), batch=0.5), {}, None, 0.5),
        ("acreate_batch", TOKENS, {}, None, None),
        ("avideo_generation", TOKENS, {"prompt": "a cat"}, None, None),
        ("pass_through_endpoint", TOKENS, {"messages": []}, None, None),
    ],
)  # fmt: skip
def test_the_estimate_of_a_call(
    call_type: str, price: Price, body: dict[str, Any], size: int | None, usd: float | None
) -> None:
    assert cost(call_type, price, body, size) == (None if usd is None else pytest.approx(usd))


@pytest.mark.parametrize(
    ("call_type", "body", "price", "free"),
    [
        ("aembedding", {"model": "m"}, FREE, True),
        ("aembedding", {"model": "m", "fallbacks": ["paid"]}, FREE, False),
        ("aembedding", {"model": "m"}, TOKENS, False),
        ("rerank", {"model": "m"}, Price((0.0, 0.0), query=0.002), False),
        ("moderation", {}, Price(), True),
        ("moderation", {"model": "m"}, Price(), False),
        ("alist_batches", {}, Price(), True),
        ("acreate_batch", {"model": "m"}, FREE, False),
    ],
)
def test_what_surely_costs_nothing(call_type: str, body: dict[str, Any], price: Price, free: bool) -> None:
    assert is_free(read(body, {}, call_type), price) is free


@pytest.mark.parametrize(
    ("call_type", "management"),
    [
        ("aget_responses", True), ("adelete_responses", True), ("alist_input_items", True), ("acancel_batch", True),
        ("aretrieve_batch", True), ("acreate_file", True), ("afile_content", True), ("avector_store_list", True),
        ("avideo_status", True), ("acreate_batch", False), ("avideo_generation", False), ("acompletion", False),
        ("avector_store_search", False), ("arun_thread", False), ("acreate_fine_tuning_job", False), ("aocr", False),
        ("anthropic_messages", False), ("pass_through_endpoint", False), ("agenerate_content", False),
        ("agenerate_content_stream", False), ("generate_content", False), ("aimage_generation", False),
    ],
)  # fmt: skip
def test_calls_that_only_read_or_manage(call_type: str, management: bool) -> None:
    assert is_management(call_type) is management


@pytest.mark.parametrize(
    ("rates", "entry", "price"),
    [
        (None, {"output_cost_per_image": 0.03}, Price(image=0.03)),
        (None, {"input_cost_per_pixel": 1e-7, "output_cost_per_pixel": 0.0}, Price(image=1792 * 1024 * 1e-7)),
        ((5.0, 10.0), {"output_cost_per_image_token": 4e-5}, Price((5.0, 10.0), image=0.252)),
        (None, {"input_cost_per_character": 1.5e-5}, Price(character=1.5e-5)),
        (None, {"input_cost_per_second": 1e-4, "output_cost_per_second": 1e-4}, Price(None, None, 1e-5, 1e-4)),
        (None, {"mode": "rerank", "input_cost_per_query": 2e-3, "input_cost_per_token": 0.0, "output_cost_per_token": 0.0}, Price((0.0, 0.0), query=2e-3)),
        (None, {"mode": "moderation", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0}, FREE),
        (None, {"mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}, Price()),
        (None, {"output_cost_per_image": "0.03"}, Price()),
    ],
)  # fmt: skip
def test_a_price_from_litellms_map(rates: tuple[float, float] | None, entry: dict[str, Any], price: Price) -> None:
    found = price_from(rates, entry)
    assert found.rates == price.rates
    for name in ("image", "character", "second", "query"):
        wanted = getattr(price, name)
        assert getattr(found, name) == (wanted if wanted is None else pytest.approx(wanted))
