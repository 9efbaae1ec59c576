"""Read limits as people write them: ``5/day``, ``100k``, ``30d``, ``cheap,standard``. Raises ValueError with the reason."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from lmstack.keys.key import ROLES, KeyLimits, limits_from
from lmstack.keys.routes import ROUTES
from lmstack.routing.budgets import PERIODS
from lmstack.routing.candidates import GROUPS

NONE = "none"  # takes a limit away
MAX_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]*")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_THOUSANDS = {"k": 1_000, "m": 1_000_000}
_MOST = 10**12


def name(text: str) -> str:
    """Return the name of a key, an agent or a team."""
    if len(text) > MAX_NAME or not _NAME.fullmatch(text):
        raise ValueError(
            f"'{text[:40]}' is no name: use letters, digits, and . _ @ : - after the first, at most {MAX_NAME}"
        )
    return text


def agent(text: str) -> str:
    """Return the name of an agent, or ``*``: the client names its agent itself."""
    return text if text == "*" else name(text)


def count(text: str) -> int:
    """Return a whole number from 1: ``60``, ``100k``, ``1m``."""
    number, factor = (text[:-1], _THOUSANDS[text[-1:].lower()]) if text[-1:].lower() in _THOUSANDS else (text, 1)
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 1 <= value <= _MOST or value != int(value):
        raise ValueError(f"'{text[:40]}' is no number such as 60, 100k or 1m")
    return int(value)


def budget(text: str) -> tuple[str, float]:
    """Return the period and the US dollars of ``5/day``. An amount without a period is a total."""
    amount, found, period = text.partition("/")
    period = period.strip() if found else "total"
    if period not in PERIODS:
        raise ValueError(f"'{period[:40]}' is no period: use one of {', '.join(PERIODS)}")
    return period, usd(amount)


def usd(text: str) -> float:
    """Return US dollars."""
    try:
        value = float(text.strip().removeprefix("$"))
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise ValueError(f"'{text[:40]}' is no amount of US dollars such as 5 or 0.50")
    return value


def moment(text: str, now: float) -> float:
    """Return the Unix seconds of ``30d`` from now, of a date, or of a date with a time (UTC). It must be in the future."""
    unit = _UNITS.get(text[-1:])
    try:
        when = now + float(text[:-1]) * unit if unit else _date(text)
    except (ValueError, OverflowError):
        raise ValueError(f"'{text[:40]}' is no time: write 12h, 30d or 2026-12-31") from None
    if not now < when < now + 36500 * 86400:
        raise ValueError(f"'{text[:40]}' is not in the future")
    return when


def _date(text: str) -> float:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def words(text: str, known: Sequence[str], what: str) -> list[str]:
    """Return a list of words that are separated by commas, each one of ``known``."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    wrong = next((word for word in found if word not in known), None)
    if wrong is not None or not found:
        raise ValueError(f"'{(wrong or text)[:40]}' is no {what}: use {', '.join(known)}")
    return found


def models(text: str) -> list[str]:
    """Return names of models, or patterns such as ``gpt-*``. Groups of models are tiers."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    group = next((word for word in found if word in GROUPS or word == "auto"), None)
    if group is not None:
        raise ValueError(f"'{group}' is no model but a group: limit a key to its models with --tiers")
    if not found or any(len(word) > 200 or not word.isprintable() for word in found):
        raise ValueError("name one model or more, separated by commas")
    return found


def tiers(text: str) -> list[int]:
    """Return the tiers of ``cheap,standard``."""
    return [GROUPS[word][0] for word in words(text, tuple(GROUPS), "tier")]


def share(text: str) -> float:
    """Return a share of ``80`` percent as 0.8; 100 percent means no warning before the end."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise ValueError(f"'{text[:40]}' is no share such as 80 percent")
    return value / 100


def role(text: str) -> str:
    """Return a role of keys."""
    if text not in ROLES:
        raise ValueError(f"'{text[:40]}' is no role: use {' or '.join(ROLES)}")
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "agent": agent, "team": name, "models": models, "tiers": tiers,
    "routes": lambda text: words(text, ROUTES, "kind of route"), "tasks": str, "soft": share, "rpm": count, "tpm": count,
    "parallel": count, "role": role,
}  # fmt: skip


def changes(given: Mapping[str, str | Sequence[str] | None]) -> dict[str, Any]:
    """Return limits as plain values, for each option that was given. ``none`` gives None: the limit is taken away.

    Raises ValueError that names the option.
    """
    found: dict[str, Any] = {}
    for option, value in given.items():
        if value is None or value == [] or value == ():
            continue
        try:
            found |= _change(option, value)
        except ValueError as error:
            raise ValueError(f"--{option}: {error}") from None
    return found


def _change(option: str, value: str | Sequence[str]) -> dict[str, Any]:
    if option == "budget":
        texts = [value] if isinstance(value, str) else list(value)
        return {"budgets": None if texts == [NONE] else dict(budget(text) for text in texts)}
    text = str(value)
    return {option: None if text == NONE else _PARSERS[option](text)}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> KeyLimits:
    """Return limits with changes. A change to None takes a limit away. Raises ValueError for limits that do not fit together."""
    merged = {**old, **new}
    limits = limits_from({name: value for name, value in merged.items() if value is not None})
    others = [name for name in limits.as_json() if name != "role"] if limits.is_viewer else []
    if others:
        raise ValueError(f"a viewer calls nothing, so it has no limits: take away {', '.join(others)}")
    return limits
