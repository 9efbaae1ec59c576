"""Which master keys may be used where other machines can reach the gateway."""

import secrets

import pytest

from lmstack.gateway.app.startup import refuse_weak_key
from lmstack.key_strength import GUIDE_KEY, weakness


@pytest.mark.parametrize(
    "key",
    [
        "",
        "short",
        GUIDE_KEY,
        f"{GUIDE_KEY}1",
        f"my-{GUIDE_KEY.upper()}",
        "a" * 20,
        "abc" * 10,
        "0101010101010101010101",
    ],
)
def test_a_key_that_can_be_guessed_is_weak(key: str) -> None:
    assert weakness(key)
    assert key not in weakness(key) or len(key) < 10


@pytest.mark.parametrize("made", [secrets.token_hex, secrets.token_urlsafe])
def test_a_random_key_is_strong(made: object) -> None:
    for _ in range(200):
        assert weakness(f"sk-{made(16)}") == ""  # type: ignore[operator]


def test_the_gateway_itself_refuses_a_weak_key_unless_it_is_on_loopback() -> None:
    refuse_weak_key({"LITELLM_MASTER_KEY": GUIDE_KEY})
    refuse_weak_key({"LITELLM_MASTER_KEY": GUIDE_KEY, "LITELLM_HOST": "127.0.0.1"})
    refuse_weak_key({"LITELLM_MASTER_KEY": secrets.token_hex(16), "LITELLM_HOST": "0.0.0.0"})
    with pytest.raises(RuntimeError, match="the default key is refused"):
        refuse_weak_key({"LITELLM_MASTER_KEY": GUIDE_KEY, "LITELLM_HOST": "0.0.0.0"})
