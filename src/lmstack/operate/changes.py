"""Compare the settings with those of the last start. Never shows a secret's value. Pure."""

import hashlib

from lmstack.config.settings import SETTINGS, Settings
from lmstack.ledger.redact import without_userinfo
from lmstack.operate.planning import Planned
from lmstack.runtime.base import State

_SECRET = frozenset(setting.name for setting in SETTINGS if setting.secret)


def marks(settings: Settings) -> dict[str, str]:
    """Return each setting that is not empty: its value, or for a secret a short digest, which only shows a change.

    An address with a password in it is a secret too.
    """
    found = {**settings.values, **settings.extra}
    return {name: _mark(name, value.text, name in settings.extra) for name, value in found.items() if value.text}


def since_the_last_start(state: State | None, wanted: Planned) -> list[str]:
    """Return a sentence for each setting that differs from the last start; empty when that is not known."""
    if state is None or not state.settings:
        return []
    now = marks(wanted.plan.settings)
    # An older lmstack wrote an address with a password as it is.
    before = {name: text if text.startswith("#") else _mark(name, text, False) for name, text in state.settings.items()}
    told = [_sentence(name, before.get(name), now.get(name), state.flags) for name in sorted({*now, *before})]
    found = [text for text in told if text]
    if not found and state.runtime == wanted.runtime.name and state.digest != wanted.digest:
        return ["models.yaml, the models that can be served, or lmstack itself has changed"]
    return found


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
