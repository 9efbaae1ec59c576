"""Which models have their price in LiteLLM's price map only: those for images, audio, rerank and realtime."""

import contextlib
import functools

from lmstack.catalog.prices import load_price_map
from lmstack.errors import MissingToolError
from lmstack.routing.prices import UNKNOWN, entry_of, price_from
from lmstack.stack.plan import Deployment

_price_map = functools.cache(load_price_map)


def has_price_in_map(deployment: Deployment) -> bool:
    """Return whether a budget finds the price of a model in LiteLLM's price map. For chat it takes only our own prices."""
    if deployment.model.mode in ("chat", "embedding"):
        return False
    with contextlib.suppress(MissingToolError):
        entry = entry_of(_price_map(), deployment.litellm_model)
        return price_from(None, entry, mode=deployment.model.mode) != UNKNOWN
    return False
