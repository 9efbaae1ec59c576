"""What the key of a client forbids in the body of a call."""

from typing import Any

import pytest

from lmstack.gateway.calls.holders import check_tools
from lmstack.keys.key import Key, KeyLimits
from lmstack.routing.refusals import RefusalError

IMAGE: dict[str, Any] = {"type": "image_generation"}
NAMED = {**IMAGE, "model": "gpt-image-1"}
CHAT = {"type": "advisor", "model": "claude-opus"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"model": {"type": "string"}}}}}


@pytest.mark.parametrize(
    ("limits", "tool", "refusal"),
    [
        (KeyLimits(), NAMED, None),
        (KeyLimits(), CHAT, None),
        (KeyLimits(models=("gpt-4o-mini",)), FUNCTION, None),
        (KeyLimits(models=("gpt-4o-mini",)), IMAGE, "model_not_allowed"),
        (KeyLimits(models=("gpt-4o-mini",)), NAMED, "model_not_allowed"),
        (KeyLimits(models=("gpt-*",)), NAMED, None),
        (KeyLimits(models=("gpt-*",)), CHAT, "model_not_allowed"),
        (KeyLimits(models=("gpt-*",)), {**CHAT, "model": ["gpt-4o"]}, "model_not_allowed"),
        (KeyLimits(tiers=(1,)), CHAT, "model_not_allowed"),
        (KeyLimits(tiers=(1,)), NAMED, None),
        (KeyLimits(routes=("chat",)), IMAGE, "route_not_allowed"),
        (KeyLimits(routes=("chat", "images")), NAMED, None),
    ],
)
def test_a_tool_calls_no_model_that_the_key_may_not_use(
    limits: KeyLimits, tool: dict[str, Any], refusal: str | None
) -> None:
    key = Key(1, "coder", limits)
    if refusal is None:
        check_tools(key, [tool])
        return
    with pytest.raises(RefusalError) as raised:
        check_tools(key, [FUNCTION, tool])
    assert (raised.value.status, raised.value.kind) == (403, refusal)


def test_the_operator_and_odd_bodies_pass() -> None:
    check_tools(None, [NAMED])
    for tools in (None, {}, "x", [None, 1, "x"]):
        check_tools(Key(1, "coder", KeyLimits(models=("a",))), tools)
