"""What the holder of a key does: take the secret from the environment, set up a client with it, and make a first call."""

import os
import time
from dataclasses import dataclass
from typing import Any

from lmstack.errors import UsageError
from lmstack.keys.key import VIEWER
from lmstack.operate import keys
from lmstack.operate.launch import gateway_url
from lmstack.stack.project import Project

# LiteLLM's own name for the key of a client.
VARIABLE = "LITELLM_API_KEY"


@dataclass(frozen=True, slots=True)
class FirstCall:
    """The result of a first call: the model that answered, or the error."""

    model: str | None
    cost: str | None
    error: str | None


def key_expression(name: str) -> str:
    """Return the shell expression for the secret of a key. The secret is stored nowhere, so the user's shell must have it."""
    return f'"${{{VARIABLE}:?holds no secret of the key {name}}}"'


def require_active(project: Project, name: str) -> dict[str, Any]:
    """Return a key that can be used. Raises UsageError for a missing, revoked or expired one, and for a viewer's."""
    found = keys.key(project, name)
    if found["state"] != "active":
        raise UsageError(f"the key '{name}' is {found['state']}", f"make a new one: lm key create {name}")
    if found["role"] == VIEWER:
        raise UsageError(f"the key '{name}' is a viewer's: it opens the page, and calls nothing", "lm key create NAME")
    return found


def secret_of(project: Project, name: str) -> str:
    """Return the secret of a key, from LITELLM_API_KEY. Raises UsageError where it is missing, or belongs to another key."""
    require_active(project, name)
    secret = os.environ.get(VARIABLE, "")
    if not secret:
        raise UsageError(
            f"the secret of the key '{name}' is stored nowhere, and {VARIABLE} is not set",
            f"set it to what `lm key create` has printed; a new one: {VARIABLE}=$(lm key rotate {name})",
        )
    owner = keys.name_of_secret(project, secret)
    if owner != name:
        what = f"the secret of the key '{owner}'" if owner else "no secret of a key of this gateway"
        raise UsageError(f"{VARIABLE} holds {what}, not that of '{name}'", f"make a new one: lm key rotate {name}")
    return secret


def first_call(project: Project, secret: str, model: str) -> FirstCall:
    """Make one tiny call with a key. A gateway that does not run, and a refusal, are errors in the result."""
    import httpx

    body = {"model": model, "messages": [{"role": "user", "content": "Say OK."}], "max_tokens": 5}
    url = f"{gateway_url(project)}/v1/chat/completions"
    try:
        for _ in range(20):  # every worker knows a new key within a second
            answer = httpx.post(
                url, json=body, headers={"authorization": f"Bearer {secret}"}, timeout=120, trust_env=False
            )
            if answer.status_code != 401:
                break
            time.sleep(0.1)
        error = None if answer.status_code == 200 else _text(answer)
    except httpx.HTTPError as failure:
        return FirstCall(None, None, f"the gateway does not answer ({type(failure).__name__}); start it with: lm up")
    return FirstCall(answer.headers.get("x-lm-model"), answer.headers.get("x-lm-cost"), error)


def _text(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
