"""What clients may send: any JSON, any header. None of it may make us lose the request, or raise at all."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator

import pytest
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st

from lmstack.gateway.calls import attempts, attribution, error_text
from lmstack.gateway.calls.usage import usage_of
from lmstack.ledger import apply, schema
from lmstack.ledger.records import Ended, Started, dump, load
from lmstack.routing.classify import conversation_group
from lmstack.routing.needs import needs_of, user_texts
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import parse_options

settings.register_profile("ours", deadline=None, max_examples=300, derandomize=True)
settings.load_profile("ours")

NAMES = (
    "messages", "input", "prompt", "system", "tools", "functions", "tool_choice", "response_format", "text", "metadata",
    "litellm_metadata", "user", "stream", "model", "max_tokens", "max_completion_tokens", "proxy_server_request",
    "litellm_call_id", "model_info",
)  # fmt: skip
INNER = ("role", "content", "type", "text", "image_url", "task_id", "agent_id", "tags", "format", "headers", "body", "lm_tier", "lm_max_cost")  # fmt: skip
HEADERS = ("x-task-id", "x-agent-id", "x-litellm-tags", "x-lm-tier", "x-lm-max-cost", "x-task-budget")

TEXT = st.text(st.characters(), max_size=40)  # with lone surrogates, which JSON can name and no file can hold
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=15,
)
BODY = st.dictionaries(st.sampled_from(NAMES), ANY, max_size=8)
HEADS = st.dictionaries(st.sampled_from(HEADERS), TEXT, max_size=5)


@pytest.fixture(scope="module")
def ledger() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schema.migrate(conn)
        yield conn


@given(body=BODY, headers=HEADS, path=TEXT, error=TEXT)
def test_any_request_makes_a_row_and_survives_the_spool(
    ledger: sqlite3.Connection, body: dict[str, object], headers: dict[str, str], path: str, error: str
) -> None:
    call = attribution.start_call(body, headers, path)
    call.attempts.append(attempts.start_attempt(body, "acompletion"))
    fault = attempts.fault_of(HTTPException(400, {"error": error, "type": error}), body)
    record = Ended(call, "failed", 1.0, 2.0, usage_of(body.get("text")), fault=fault)
    spooled = load(json.dumps(json.loads(dump(record))))
    assert all(v.durable for v in apply.transaction(ledger, [Started(call), spooled], "w", send_events=True))
    assert ledger.execute("SELECT status FROM requests WHERE id = ?", (call.id,)).fetchall() == [("failed",)]


@given(BODY, HEADS)
def test_any_request_can_be_routed_or_refused(body: dict[str, object], headers: dict[str, str]) -> None:
    assert needs_of(body).tokens_in >= 0
    assert conversation_group(user_texts(body.get("messages"))) in ("cheap", "standard", "premium")
    metadata = body.get("metadata")
    with contextlib.suppress(RefusalError):
        parse_options(headers, metadata if isinstance(metadata, dict) else {})


@given(st.text(min_size=24, max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_error_repeats_a_prompt(prompt: str, before: str, after: str) -> None:
    request = {"messages": [{"role": "user", "content": prompt}]}
    assert prompt not in error_text.message_of(f"{before}{prompt}{after}", request)
    quoted = error_text.message_of(f"{before}{json.dumps(prompt)}{after}", request)
    assert prompt not in quoted


def test_a_header_is_read_as_utf_8_where_it_is() -> None:
    sent = "Aufgabe-ü".encode().decode("latin-1")
    assert attribution.start_call({}, {"x-task-id": sent}).attribution.task_id == "Aufgabe-ü"
    assert attribution.start_call({}, {"x-task-id": "caf\xe9"}).attribution.task_id == "café"
