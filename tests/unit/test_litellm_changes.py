"""The comparison of two LiteLLM releases."""

import sys

import pytest

from litellm_changes import SECTIONS, answers, asked, changes


def test_a_name_that_is_gone_new_or_changed_is_one_line() -> None:
    old = {"a": {"parameters": ["self", "x"], "source": "1"}, "b": {"kind": "dict"}, "same": "served"}
    new = {"a": {"parameters": ["self", "y"], "source": "2"}, "c": {"kind": "set"}, "same": "served"}
    assert changes(old, new) == ["changed  a: parameters -x, +y; source", "gone     b", "new      c"]


def test_a_call_that_moves_is_two_signs() -> None:
    old, new = ({"a failure": {"": calls}} for calls in (["hook", "cools down: dead"], ["hook", "hook"]))
    assert changes(old, new) == ["changed  a failure: -cools down: dead, +hook"]


@pytest.mark.exhaustive  # it imports LiteLLM four times
def test_the_pinned_release_answers_for_every_name() -> None:
    found = answers(sys.executable, asked())
    assert set(found) == set(SECTIONS)
    gone = {name for section in SECTIONS for name, known in found[section].items() if known is None}
    assert gone == set()
    assert all(found.values())
