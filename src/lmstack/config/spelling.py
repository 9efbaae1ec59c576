"""Suggestions for misspelled words. Pure."""

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[object], similarity: float = 0.6) -> str:
    """Return a hint such as ``did you mean 'gpt-4o'?``, "" when no known word is close.

    ``similarity`` is from 0 to 1. With 1, only the word itself is close.
    """
    import difflib  # takes 3 ms to import, and most commands make no mistake

    close = difflib.get_close_matches(str(word)[:100], [str(k) for k in known], 1, similarity)
    return f"did you mean '{close[0]}'?" if close else ""
