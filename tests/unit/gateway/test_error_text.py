"""The texts of a request are removed from errors, in one pass over each text."""

import pytest

from lmstack.gateway.calls import error_text


class Counted(str):
    """A text that counts how often a part of it is taken."""

    taken = 0

    def __getitem__(self, key: object) -> str:
        Counted.taken += 1
        return super().__getitem__(key)  # type: ignore[index]


@pytest.mark.parametrize("texts", [[f"{n:06d}" for n in range(2_600)], ["x" * 17] * 900, ["x y " * 4_000]])
@pytest.mark.parametrize("error", ["x0" * 10_000, "x" * 20_000, " " * 20_000])
def test_however_many_texts_a_request_has_an_error_is_read_once(error: str, texts: list[str]) -> None:
    Counted.taken = 0
    list(error_text._short_matches(Counted(error), texts))
    list(error_text._matches(Counted(error), texts))
    assert Counted.taken < 5 * len(error)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("not 'abc-12'!", "not '***'!"),
        ("abc-12abc-12", "***"),
        ("abc-1 is shorter", "abc-1 is shorter"),
        ("the word image_url stays", "the word image_url stays"),
        ("a b c d e f g h i j k l m n", "***"),
        ("got: b c d e f g h i j k and more", "got:***and more"),
        ("code \\u0061bc-12", "code ***"),
    ],
)
def test_short_and_long_texts_of_the_request_are_removed(text: str, kept: str) -> None:
    request = {"messages": [{"content": ["abc-12", "image_url", "a b c d e f g h i j k l m n"]}]}
    assert error_text.remove_request(text, request) == kept
