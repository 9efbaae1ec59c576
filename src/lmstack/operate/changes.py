"""Compare the settings with those of the last start. Never shows a secret's value. Pure."""

import hashlib
import json
from collections.abc import Sequence

from lmstack.config.settings import BY_NAME, SETTINGS, Settings
from lmstack.ledger.redact import without_userinfo
from lmstack.operate.planning import Planned
from lmstack.routing.budgets import Limit, dump_limits
from lmstack.runtime.base import State

_SECRET = frozenset(setting.name for setting in SETTINGS if setting.secret)


def marks(settings: Settings) -> dict[str, str]:
    """Return each setting that is not empty: its value, or for a secret a short digest, which only shows a change.

    An address with a password in it is a secret too.
    """
    found = {**settings.values, **settings.extra}
    return {name: _mark(name, value.text, name in settings.extra) for name, value in found.items() if value.text}


def parts(wanted: Planned) -> dict[str, str]:
    """Return what the running gateway depends on beside the settings: three digests, and the number of workers."""
    return {
        "budgets": budgets_digest(wanted.plan.rules.budgets),
        "models.yaml": _digest(wanted.models_file),
        "code": _digest(wanted.runtime.code()),
        "workers": str(wanted.plan.workers),
        "built-in model": "on" if wanted.plan.embedded else "off",
    }


# The server reads these once: where it listens, and which release it is. Most settings are read by each new worker.
_FIXED = frozenset({"LITELLM_HOST", "LITELLM_PORT", "LITELLM_VERSION"})
# With Docker, compose acts on these: it chooses the image, and starts and configures Redis.
_FIXED_DOCKER = frozenset({"LITELLM_IMAGE", "LITELLM_MOUNT", "LITELLM_REDIS", "REDIS_URL", "REDIS_PASSWORD"})
_CODE = {"docker": "a file that goes into the image", "local": "lmstack itself"}


def restart_reasons(state: State, wanted: Planned) -> list[str]:
    """Return why the running gateway must stop for this plan; empty when its server can apply the change as it runs."""
    if state.runtime != wanted.runtime.name:
        return [f"the runtime changes from {state.runtime} to {wanted.runtime.name}"]
    if state.digest == wanted.digest:
        return ["not everything of it serves"]
    before, now = state.parts, parts(wanted)
    sentences = {"code": f"{_CODE[state.runtime]} has changed", "workers": "the number of workers changes", "built-in model": "the built-in model starts or stops"}  # fmt: skip
    found = [text for name, text in sentences.items() if before.get(name) != now[name]]
    return found + [f"{name} is read only at the start" for name in _fixed_changes(state, wanted)]


def listens_alike(state: State, wanted: Planned) -> bool:
    """Return whether a new server could take the place of the running one.

    It must listen where that one does, with as many workers. The keeper of the port is of the lmstack that started it.
    """
    before, now, marked = state.parts, parts(wanted), marks(wanted.plan.settings)
    same = all(before.get(name) == now[name] for name in ("code", "workers", "built-in model"))
    addresses = all(state.settings.get(name) == marked.get(name) for name in ("LITELLM_HOST", "LITELLM_PORT"))
    return same and addresses and state.runtime == wanted.runtime.name


def _fixed_changes(state: State, wanted: Planned) -> list[str]:
    """Return the changed variables that a new worker does not read again.

    A variable that neither a setting nor a provider has is LiteLLM's own. Its modules read most of those when they are
    imported, which happens once in the server.
    """
    now = marks(wanted.plan.settings)
    names = [name for name in sorted({*now, *state.settings}) if now.get(name) != state.settings.get(name)]
    fixed = _FIXED | _FIXED_DOCKER if state.runtime == "docker" else _FIXED
    readable = {*BY_NAME, *wanted.variables} - fixed
    return [name for name in names if name not in readable]


def budgets_digest(budgets: Sequence[Limit]) -> str:
    """Return a short digest of all limits."""
    return _digest(json.dumps(dump_limits(budgets)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def since_the_last_start(state: State | None, wanted: Planned) -> list[str]:
    """Return a sentence for each thing that differs from the last start; empty when that is not known."""
    if state is None or not state.settings:
        return []
    now = marks(wanted.plan.settings)
    # An older lmstack wrote an address with a password as it is.
    before = {name: text if text.startswith("#") else _mark(name, text, False) for name, text in state.settings.items()}
    told = [_sentence(name, before.get(name), now.get(name), state.flags) for name in sorted({*now, *before})]
    found = [text for text in told if text]
    if state.runtime == wanted.runtime.name and state.digest != wanted.digest:
        found += _other_changes(state, wanted, bool(found))
    return found


def _other_changes(state: State, wanted: Planned, settings_changed: bool) -> list[str]:
    """Return a sentence for models.yaml, lmstack's code, the number of workers and the served names, where they differ."""
    if not state.parts:  # an older lmstack did not write them
        return [] if settings_changed else ["models.yaml, the models that can be served, or lmstack itself has changed"]
    before, now = state.parts, parts(wanted)
    sentences = {"models.yaml": "models.yaml has changed", "code": f"{_CODE[wanted.runtime.name]} has changed"}
    found = [text for name, text in sentences.items() if before.get(name) != now[name]]
    if settings_changed:  # they may also change the workers and the served names
        return found
    if before.get("workers") != now["workers"]:
        found.append(f"the number of workers goes from {before.get('workers')} to {now['workers']}")
    return found or _served_names(set(state.models), set(wanted.plan.names)) or ["lmstack itself has changed"]


def _served_names(before: set[str], now: set[str]) -> list[str]:
    found = [f"can be served now: {', '.join(sorted(now - before))}"] if now - before else []
    return found + ([f"cannot be served any more: {', '.join(sorted(before - now))}"] if before - now else [])


def _sentence(name: str, before: str | None, after: str | None, flags: dict[str, str]) -> str:
    if before == after:
        return ""
    if (before or "").startswith("#") or (after or "").startswith("#"):
        verb = "is new" if before is None else "is gone" if after is None else "has another value"
        return f"{name} {verb}"
    given = " (given to the last lm up)" if name in flags else ""
    return f"{name} goes from {before or 'unset'}{given} to {after or 'unset'}"


def _mark(name: str, text: str, extra: bool) -> str:
    if name in _SECRET or extra or without_userinfo(text) != text:
        return "#" + hashlib.sha256(f"{name}={text}".encode()).hexdigest()[:6]
    return text
