"""Judge whether a master key can be guessed. Used by `lm` before a start, and by the gateway when it starts. Pure."""

import math
from collections import Counter

# The master key that the setup guide shows. Everybody knows it.
GUIDE_KEY = "taskmaster-litellm-key"
MIN_LENGTH = 20  # characters
# A random key of 20 letters has 86 bits by this measure, and 32 hexadecimal digits have about 115.
MIN_BITS = 55.0


def weakness(key: str) -> str:
    """Return why others could guess a key, without the key itself; "" when it is strong."""
    if key == GUIDE_KEY:
        return "the default key"
    if len(key) < MIN_LENGTH:
        return f"a key of {len(key)} characters"
    if GUIDE_KEY in key.lower():
        return "a key that contains the default key"
    if bits(key) < MIN_BITS:
        return "a key that repeats few characters"
    return ""


def bits(key: str) -> float:
    """Return the length of a key times the entropy of its characters. A repeated part counts once."""
    key = _without_repetition(key)
    counts = Counter(key)
    return -sum(count * math.log2(count / len(key)) for count in counts.values()) if key else 0.0


def _without_repetition(key: str) -> str:
    """Return the part that a key repeats, or the key. ``abcabc`` gives ``abc``."""
    period = (key + key).find(key, 1) if key else 0
    return key[:period] if 0 < period < len(key) else key
