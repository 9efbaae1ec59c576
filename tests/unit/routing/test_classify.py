"""How hard a prompt is: the group that ``auto`` chooses."""

import pytest

from lmstack.routing import classify as classifier
from lmstack.routing.classify import HEAD, TAIL, classify, conversation_group


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("Hello!", "cheap"),
        ("Translate 'good night' into Italian.", "cheap"),
        ("Prove that every finite integral domain is a field.", "premium"),
        ("Beweise, dass es unendlich viele Primzahlen gibt, und verallgemeinere den Satz.", "premium"),
        ("证明素数有无穷多个，并推广。", "premium"),
    ],
)
def test_the_classifier_tells_easy_from_hard(text: str, group: str) -> None:
    assert classify(text).group == group


def test_a_conversation_never_goes_down_a_tier() -> None:
    hard, thanks = "Prove that there are infinitely many primes, and derive the density.", "thanks"
    turns = [hard, *[f"thanks {n}" for n in range(30)]]
    groups = [conversation_group(turns[: n + 1]) for n in range(len(turns))]
    assert set(groups) == {"premium"}
    assert conversation_group([thanks]) == "cheap"
    assert conversation_group([]) == "cheap"


def test_only_a_bounded_part_of_a_prompt_is_looked_at() -> None:
    assert classify("x" * (HEAD + TAIL + 10)).score == classify("x" * 1_000_000).score


def test_every_worker_gives_a_conversation_the_same_group() -> None:
    hard = (
        "Prove that the algorithm below terminates and derive its worst-case complexity. ```python\n"
        + "x = f(x)\n" * 40
    )
    turns = ["hello", hard, *(f"thanks, and now number {n}" for n in range(30))]
    seen_before = [conversation_group(turns[: n + 1]) for n in range(len(turns))][-1]
    classifier._scores.clear()  # another worker, or a restart
    assert conversation_group(turns) == seen_before != "cheap"
