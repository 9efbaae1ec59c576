"""What the key of a client means for one call: its task, its models, its budgets. Pure."""

import time

from lmstack.keys.key import Key
from lmstack.routing.refusals import RefusalError
from lmstack.routing.request import OPERATOR, Client


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


def check_task(key: Key, task: str | None) -> None:
    """Raise RefusalError (403) for a task that a key may not work for."""
    if key.limits.allows_task(task):
        return
    named = f"the task '{task[:100]}'" if task else "a request without x-task-id"
    text = f"x-task-id: the key '{key.name}' is for tasks like '{key.limits.tasks}', and this is {named}."
    raise RefusalError(403, "task_not_allowed", text, param="x-task-id")
