"""The JSON of commands that need a running gateway has the keys that docs/json.md lists."""

import pytest

from documented import NEED_A_GATEWAY, check_json_keys
from support import Stack

# test_routing.py restarts a gateway, test_upgrade.py upgrades one and rolls it back. test_alerts.py has targets.
ELSEWHERE = {"restart", "upgrade --to RELEASE", "rollback", "alerts test"}


@pytest.mark.parametrize("words", sorted(NEED_A_GATEWAY - ELSEWHERE))
def test_the_json_of_a_running_gateway_has_the_keys_that_the_docs_list(gateway: Stack, words: str) -> None:
    answer = gateway.post(
        "/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}
    )
    call = answer.headers["x-litellm-call-id"]
    gateway.row(call)
    check_json_keys(words, gateway.json(*words.replace("CALL", call).split()))
