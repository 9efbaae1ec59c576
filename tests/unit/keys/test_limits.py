"""Limits as people write them, and what a key with limits may do."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstack.keys import orders, parse, text
from lmstack.keys.key import Key, KeyLimits, limits_from, state_of
from lmstack.keys.routes import ROUTES, kind_of
from lmstack.keys.secret import PREFIX, digest, new_secret
from lmstack.routing.budgets import PERIODS

NOW = 1_800_000_000.0


def test_a_secret_has_256_random_bits_and_its_hash_does_not_hold_it() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(one) == len(PREFIX) + 43 and digest(one) != one for one in secrets)


@pytest.mark.parametrize(
    ("option", "text", "found"),
    [
        ("rpm", "60", {"rpm": 60}), ("tpm", "100k", {"tpm": 100_000}), ("tpm", "1.5m", {"tpm": 1_500_000}),
        ("budget", ["5/day", "50/month"], {"budgets": {"day": 5.0, "month": 50.0}}), ("budget", ["3"], {"budgets": {"total": 3.0}}),
        ("tiers", "cheap,premium", {"tiers": [1, 3]}), ("routes", "chat, embeddings", {"routes": ["chat", "embeddings"]}),
        ("models", "gpt-4o,claude-*", {"models": ["gpt-4o", "claude-*"]}), ("soft", "90", {"soft": 0.9}),
        ("rpm", "none", {"rpm": None}), ("budget", ["none"], {"budgets": None}), ("agent", "*", {"agent": "*"}),
    ],
)  # fmt: skip
def test_limits_are_read(option: str, text: str | list[str], found: dict[str, object]) -> None:
    assert parse.changes({option: text, "team": None}) == found


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("rpm", "0"), ("rpm", "-1"), ("rpm", "1.5"), ("rpm", "nan"), ("rpm", "1e400"), ("tpm", "k"), ("budget", ["5/year"]), ("budget", ["-1"]),
        ("budget", ["inf/day"]), ("tiers", "best"), ("tiers", ","), ("routes", "chat,mcp"), ("models", "cheap"), ("models", ""),
        ("soft", "0"), ("soft", "101"), ("team", "a b"), ("agent", "x" * 101),
    ],
)  # fmt: skip
def test_a_wrong_limit_names_its_option(option: str, text: str | list[str]) -> None:
    with pytest.raises(ValueError, match=f"^--{option}: "):
        parse.changes({option: text})


@pytest.mark.parametrize("text", ["0d", "-1d", "yesterday", "2001-01-01", "1e300d", "nanh", "", "d"])
def test_an_end_must_be_in_the_future(text: str) -> None:
    with pytest.raises(ValueError):
        parse.moment(text, NOW)


def test_an_end_is_a_span_or_a_date() -> None:
    assert parse.moment("30d", NOW) == NOW + 30 * 86400
    assert parse.moment("2027-12-31", NOW) == parse.moment("2027-12-31T00:00:00Z", NOW) == 1830211200


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any]:
    """Return options as somebody may type them, read."""
    number, words = (
        st.integers(1, 10**9).map(str),
        lambda known: st.lists(st.sampled_from(known), min_size=1, unique=True).map(",".join),
    )
    options = {
        "agent": st.sampled_from(["coder", "*"]), "team": st.just("core"), "models": words(["gpt-4o", "claude-*"]),
        "tiers": words(["cheap", "standard", "premium"]), "routes": words(["chat", "files"]), "tasks": st.just("TM-*"),
        "budget": st.lists(st.tuples(st.floats(0, 1e6).map(lambda usd: f"{usd:.4f}"), st.sampled_from(PERIODS)).map("/".join), min_size=1),
        "soft": st.integers(1, 100).map(str), "rpm": number, "tpm": number, "parallel": number, "role": st.just("agent"),
    }  # fmt: skip
    return parse.changes({name: draw(st.none() | one) for name, one in options.items()})


@given(limits())
def test_the_texts_of_limits_are_read_as_the_same_limits(found: dict[str, Any]) -> None:
    """The form that edits a key shows these texts."""
    texts = {name: one or None for name, one in text.options_of(parse.changed({}, found).as_json()).items()}
    budget = texts.pop("budget")
    again = parse.changes({**texts, "budget": budget.split(", ") if budget else None})
    assert parse.changed({}, again) == parse.changed({}, found)


def test_limits_and_changes_in_one_line() -> None:
    usd, when = (lambda amount: f"${amount:g}"), (lambda at: "never" if at is None else f"at {at:g}")
    told = {
        "team": "t",
        "budgets": {"day": 5.0},
        "raise_usd": 1.0,
        "raise_until": 20.0,
        "tiers": [1],
        "soft": 0.5,
        "rpm": 6,
    }
    assert text.limits_text(told, 10.0, usd, when) == "$5/day, $1 more until at 20, tiers cheap, soft 50 %, rpm 6"
    assert text.limits_text(told, 30.0, usd, when) == "$5/day, tiers cheap, soft 50 %, rpm 6"
    assert [text.limits_text(one, 0.0, usd, when) for one in ({}, {"role": "viewer"})] == ["none", "viewer"]
    assert text.detail_text({"before": {"rpm": 1}, "after": {"tpm": 2}, "expires_at": 5.0}, when) == "expires at 5, rpm: 1 → null, tpm: null → 2"  # fmt: skip
    assert text.detail_text({"limits": {"rpm": 1}, "expires_at": None}, when) == "rpm: 1"
    assert text.detail_text({"old_valid_until": 9.0}, when) == "the old secret ends at 9"
    assert text.detail_text({}, when) == "-"


def test_an_order_never_shows_its_secret_in_a_log() -> None:
    made = orders.create("coder", {"rpm": "5"}, "30d", NOW)
    assert made.secret.startswith(PREFIX)
    assert made.secret not in repr(made)
    assert made.values["hash"] == digest(made.secret)


def test_a_viewer_may_call_no_route() -> None:
    viewer = KeyLimits(role="viewer")
    assert not any(viewer.allows_route(kind) for kind in ROUTES)


def test_limits_survive_their_way_into_the_ledger() -> None:
    limits = KeyLimits("a", "t", ("m",), (1,), ("chat",), "T-*", {"day": 1.0}, 0.5, 1, 2, 3, 4.0, NOW)
    assert limits_from(limits.as_json()) == limits
    assert KeyLimits().as_json() == {}
    assert limits_from({"of_a_newer_lmstack": 1}) == KeyLimits()


def test_a_change_to_none_takes_a_limit_away_and_the_others_stay() -> None:
    assert parse.changed({"rpm": 5, "tpm": 6, "budgets": {"day": 1.0}}, {"rpm": None, "tpm": 7}) == KeyLimits(tpm=7, budgets={"day": 1.0})  # fmt: skip


def test_models_and_tiers_must_both_fit() -> None:
    limits = KeyLimits(models=("gpt-*",), tiers=(1,))
    assert limits.allows_model("gpt-4o-mini", 1)
    assert not limits.allows_model("gpt-4o", 3)
    assert not limits.allows_model("claude-3-haiku", 1)
    assert limits.allows_model("gpt-embed", None)  # a model that does not chat has no tier


def test_files_and_batches_must_be_named() -> None:
    assert KeyLimits().allows_route("chat")
    assert not KeyLimits().allows_route("files")
    assert KeyLimits(routes=("files",)).allows_route("files")
    assert not KeyLimits(routes=("files",)).allows_route("chat")


def test_a_pattern_for_tasks_refuses_a_request_without_a_task() -> None:
    assert KeyLimits(tasks="TM-*").allows_task("TM-1")
    assert not KeyLimits(tasks="TM-*").allows_task("XTM-1")
    assert not KeyLimits(tasks="TM-*").allows_task(None)


def test_the_agent_is_the_key_s_own_unless_it_is_left_to_the_client() -> None:
    assert Key(1, "coder").agent_of("ceo") == "coder"
    assert Key(1, "coder", KeyLimits(agent="dev")).agent_of("ceo") == "dev"
    assert Key(1, "coder", KeyLimits(agent="*")).agent_of("ceo") == "ceo"


def test_a_raise_ends_by_itself() -> None:
    key = Key(1, "k", KeyLimits(budgets={"day": 5.0, "month": 50.0}, raise_usd=10.0, raise_until=NOW))
    assert [limit.usd for limit in key.budgets(NOW - 1)] == [15.0, 60.0]
    assert [limit.usd for limit in key.budgets(NOW)] == [5.0, 50.0]


def test_the_state_of_a_key() -> None:
    assert state_of(Key(1, "k"), NOW) == "active"
    assert state_of(Key(1, "k", expires_at=NOW), NOW) == "expired"
    assert state_of(Key(1, "k", expires_at=NOW, revoked_at=NOW), NOW) == "revoked"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", "chat"), ("/v1/messages", "chat"), ("/responses", "chat"), ("/v1beta/models/x:generateContent", "chat"),
        ("/embeddings", "embeddings"), ("/openai/deployments/a/b/embeddings", "embeddings"), ("/engines/a/chat/completions", "chat"),
        ("/v1/images/edits", "images"), ("/v1/audio/speech", "audio"), ("/v2/rerank", "rerank"), ("/v1/files/f-1/content", "files"),
        ("/batches/b/cancel", "batches"), ("/v1/realtime", "realtime"), ("/v1/moderations", "moderations"),
    ],
)  # fmt: skip
def test_the_kind_of_a_route(path: str, kind: str) -> None:
    assert kind_of(path) == kind
