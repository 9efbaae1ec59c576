"""Write limits for people, and as the texts that keys/parse.py reads. Pure."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from lmstack.keys.key import AGENT, limits_from
from lmstack.routing.candidates import GROUP_OF_TIER

# The options of `lm key create`, in the order in which they are shown.
OPTIONS = ("role", "agent", "team", "models", "tiers", "routes", "tasks", "budget", "soft", "rpm", "tpm", "parallel")
Usd = Callable[[float], str]
When = Callable[[float | None], str]


def options_of(limits: Mapping[str, Any]) -> dict[str, str]:
    """Return limits as the text of each option, "" for one that is not set. ``parse.changes`` reads them again."""
    known = limits_from(limits)
    texts = {
        "role": known.role, "agent": known.agent, "team": known.team, "models": ",".join(known.models),
        "tiers": ",".join(GROUP_OF_TIER[tier] for tier in known.tiers), "routes": ",".join(known.routes), "tasks": known.tasks,
        "budget": ", ".join(f"{_plain(usd)}/{period}" for period, usd in known.budgets.items()),
        "soft": _plain(known.soft * 100) if "soft" in limits else "",
        "rpm": known.rpm, "tpm": known.tpm, "parallel": known.parallel,
    }  # fmt: skip
    return {name: "" if texts[name] is None else str(texts[name]) for name in OPTIONS}


def limits_text(limits: Mapping[str, Any], now: float, usd: Usd, when: When) -> str:
    """Return limits in one line, without agent and team. ``usd`` and ``when`` write an amount and a moment."""
    known = limits_from(limits)
    told = [known.role] if known.role != AGENT else []
    told += [f"{usd(amount)}/{period}" for period, amount in known.budgets.items()]
    if known.raise_until is not None and known.raise_until > now:
        told.append(f"{usd(known.raise_usd)} more until {when(known.raise_until)}")
    texts = options_of(limits)
    shown = ("models", "tiers", "routes", "tasks", "soft", "rpm", "tpm", "parallel")
    told += [f"{name} {texts[name]}{' %' * (name == 'soft')}" for name in shown if texts[name]]
    return ", ".join(told) or "none"


def detail_text(detail: Mapping[str, Any], when: When) -> str:
    """Return what a change of a key has changed, from its row of the audit."""
    told = [f"expires {when(detail['expires_at'])}"] if detail.get("expires_at") else []
    if "old_valid_until" in detail:
        told.append(f"the old secret ends {when(detail['old_valid_until'])}")
    before, after = detail.get("before", {}), detail.get("after", detail.get("limits", {}))
    for name in [name for name in {**before, **after} if before.get(name) != after.get(name)]:
        old = f"{json.dumps(before.get(name))} → " if "before" in detail else ""
        told.append(f"{name}: {old}{json.dumps(after.get(name))}")
    return ", ".join(told) or "-"


def _plain(number: float) -> str:
    """Return a number without an exponent and without zeros after it."""
    return f"{number:.9f}".rstrip("0").rstrip(".")
