"""Suggestions for misspelled words. Pure."""

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """Return a hint such as ``did you mean 'gpt-4o'?``, "" when no known word is close."""
    import difflib  # takes 3 ms to import, and most commands make no mistake

    close = difflib.get_close_matches(str(word)[:100], [str(k) for k in known], 1, 0.6)
    return f"did you mean '{close[0]}'?" if close else ""
