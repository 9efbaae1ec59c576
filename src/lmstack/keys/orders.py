"""What somebody wants to change about a key, checked: for `lm key` and for the page, which both hand it to ledger/keys.py. Pure.

Raises ValueError with the reason for an order that is wrong in itself. What depends on the ledger is checked there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmstack.keys import parse
from lmstack.keys.secret import digest, new_secret

Options = Mapping[str, str | Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Order:
    """A change of the key ``name``. ``values``: for ``ledger.keys.change``. ``secret``: shown once, and stored nowhere."""

    action: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    secret: str = field(default="", repr=False)


def create(
    name: str, options: Options, expires: str | None, now: float, declared: Mapping[str, Any] | None = None
) -> Order:
    """Return the order for a new key with a new secret. ``declared``: its limits in models.yaml, which no option changes."""
    limits = limits_of(name, options)
    if declared is not None and limits:
        raise ValueError(declared_text(name))
    secret = new_secret()
    values = {
        "limits": _fitting(limits if declared is None else declared), "declared": declared is not None, "hash": digest(secret),
        "expires_at": _moment(expires, now),
    }  # fmt: skip
    return Order("create", name, values, secret)


def edit(name: str, options: Options, expires: str | None, now: float, is_declared: bool) -> Order:
    """Return the order that changes limits, or the end, of a key. ``none`` takes a limit away."""
    limits = limits_of(name, options)
    if limits and is_declared:
        raise ValueError(declared_text(name))
    values: dict[str, Any] = {"limits": limits}
    if expires is not None:
        values["expires_at"] = None if expires == parse.NONE else _moment(expires, now)
    if not limits and expires is None:
        raise ValueError("nothing to change")
    return Order("edit", name, values)


def raise_budgets(key: Mapping[str, Any], usd: str, until: str, now: float) -> Order:
    """Return the order that adds US dollars to each budget until a time. ``key``: its row in the ledger."""
    limits = {"raise_usd": parse.usd(usd), "raise_until": parse.moment(until, now)}
    if not key["limits"].get("budgets"):
        raise ValueError(f"the key '{key['name']}' has no budget that could be raised")
    return Order("edit", key["name"], {"limits": limits})


def revoke(name: str) -> Order:
    """Return the order that makes a key invalid."""
    return Order("revoke", name)


def rotate(name: str, keep: str | None, now: float) -> Order:
    """Return the order for a new secret. ``keep``: how long the old one stays valid, such as 1h; without it, it ends immediately."""
    secret = new_secret()
    until = None if keep in (None, "", "0") else _moment(keep, now)
    return Order("rotate", name, {"hash": digest(secret), "keep_until": until}, secret)


def limits_of(name: str, options: Options) -> dict[str, Any]:
    """Return the limits that the options of `lm key` state, after a look at the name."""
    parse.name(name)
    return parse.changes(options)


def declared_text(name: str) -> str:
    """Return why the limits of a key cannot be changed: models.yaml states them."""
    return f"models.yaml states the limits of the key '{name}'"


def _fitting(limits: Mapping[str, Any]) -> Mapping[str, Any]:
    parse.changed({}, limits)
    return limits


def _moment(text: str | None, now: float) -> float | None:
    return None if text is None else parse.moment(text, now)
