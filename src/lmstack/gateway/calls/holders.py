"""What the key of a client means for one call: its task, its models, its budgets. Pure."""

import time
from collections.abc import Mapping
from typing import Any

from lmstack.keys.key import Key
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import OPERATOR, Client

# The provider's tool in OpenAI's Responses that makes an image with a model of its own.
_IMAGES = "image_generation"


def client_of(key: Key | None, task: str | None, call_type: str) -> Client:
    """Return what a key adds to a request. Raises RefusalError (403) for a task or a call that the key may not have."""
    if key is None:
        return OPERATOR
    limits = key.limits
    check_task(key, task)
    if limits.restricts_models and call_type.endswith("create_batch"):
        text = (
            f"The key '{key.name}' is limited to some models, and a batch may name any. Send the requests one by one."
        )
        raise RefusalError(403, "route_not_allowed", text)
    allows = limits.allows_model if limits.restricts_models else None
    return Client(allows, key.budgets(time.time()), key.name, limits.team)


def check_tools(key: Key | None, tools: object) -> None:
    """Raise RefusalError (403) for a provider's own tool that would call a model, or make an image, that the key may not."""
    if key is None or not isinstance(tools, list):
        return
    for tool in tools:
        if isinstance(tool, Mapping) and (tool.get("type") == _IMAGES or tool.get("model") is not None):
            _check_tool(key, tool)


def _check_tool(key: Key, tool: Mapping[str, Any]) -> None:
    limits, model, makes_image = key.limits, tool.get("model"), tool.get("type") == _IMAGES
    if makes_image and not limits.allows_route("images"):
        raise RefusalError(403, "route_not_allowed", f"tools: the key '{key.name}' may not call images.", param="tools")
    # The tier of such a model is unknown here. A model for images has none.
    is_allowed = limits.allows_model(model, None) if isinstance(model, str) else not limits.models
    if not is_allowed or (limits.tiers and not makes_image):
        named = f"the model '{model[:100]}'" if isinstance(model, str) else "a model that the provider chooses"
        text = f"tools: the key '{key.name}' is limited to some models, and this tool calls {named}."
        raise RefusalError(403, "model_not_allowed", text, param="tools")


def check_task(key: Key, task: str | None) -> None:
    """Raise RefusalError (403) for a task that a key may not work for."""
    if key.limits.allows_task(task):
        return
    named = f"the task '{task[:100]}'" if task else "a request without x-task-id"
    text = f"x-task-id: the key '{key.name}' is for tasks like '{key.limits.tasks}', and this is {named}."
    raise RefusalError(403, "task_not_allowed", text, param="x-task-id")
