"""The texts of a request are removed from errors, in one pass over each text."""

import random
import string

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


@pytest.mark.parametrize("quote", ["'", '"', "`"])
def test_a_long_quotation_is_removed_where_the_request_is_not_at_hand(quote: str) -> None:
    error = f"Invalid value: {quote}{SECRET}{quote}. Use {quote}audio{quote}."
    assert error_text.without_quotations(error) == f"Invalid value: {quote}***{quote}. Use {quote}audio{quote}."
    assert SECRET[:30] not in error_text.without_quotations(error[:60])
    assert len(error_text.without_quotations("x" * 9_000_000)) <= 2000


SECRET = "the merger with Contoso closes on Friday at 40 dollars a share"


def filler(length: int) -> str:
    return "".join(random.Random(length).choices(string.ascii_lowercase + "     ", k=length))  # noqa: S311 - no secret


def long_request(before: int, turn: str, after: int) -> dict[str, object]:
    roles = (("system", filler(before)), ("user", turn), ("assistant", filler(after)))
    return {"messages": [{"role": role, "content": text} for role, text in roles]}


@pytest.mark.parametrize("quote", ["'", '"', "`", ""])
@pytest.mark.parametrize("turn", [SECRET, filler(500) + SECRET + filler(503), "plan 4711", "closes on Friday at 40"])
def test_text_from_the_middle_of_a_long_conversation_is_removed(quote: str, turn: str) -> None:
    told = SECRET if SECRET in turn else turn
    found = error_text.message_of(
        f"messages.1.content is invalid: {quote}{told}{quote}, it is 'short'", long_request(20_000, turn, 20_000)
    )
    assert found == f"messages.1.content is invalid: {quote}***{quote}, it is 'short'"


@pytest.mark.parametrize("error", [f"invalid: '{SECRET}' here", f"invalid: '{SECRET}"])
def test_a_quotation_is_removed_where_a_request_is_too_long_to_be_compared(error: str) -> None:
    request = long_request(error_text._MAX_LONG_REQUEST, SECRET, 20_000)
    found = error_text.message_of(error, request)
    assert found in ("invalid: '***' here", "invalid: '***")
    assert error_text.message_of(error, {"messages": []}) == error


def test_a_very_long_request_is_compared_up_to_a_bound() -> None:
    request = {"messages": [{"role": "user", "content": "turn " * 5_000_000}, {"role": "user", "content": SECRET}]}
    leaves = error_text._leaves([request["messages"]], most=error_text._MAX_LONG_REQUEST)
    assert sum(map(len, leaves)) == error_text._MAX_LONG_REQUEST
    assert error_text.remove_request(filler(64_000), request) == error_text._TOO_LONG


@pytest.mark.parametrize("length", [250_000, 1_000_000, 4_000_000, 30_000_000])
@pytest.mark.parametrize("place", [0, 5])
def test_unquoted_text_from_the_middle_of_a_very_long_conversation_is_removed(length: int, place: int) -> None:
    turns = ["turn " * (length // 5), filler(20_000 + place) + SECRET + filler(20_000), "and " * (length // 4)]
    request = {"messages": [{"role": "user", "content": turn} for turn in turns]}
    told = error_text.message_of(f"bad: {SECRET} is not allowed", request)
    assert not any(SECRET[i : i + 12] in told for i in range(len(SECRET) - 12))
    assert told.startswith(("bad", "***"))


def test_an_image_in_a_request_leaves_the_text_of_an_error_as_it_is() -> None:
    image = "data:image/png;base64," + "QUJD" * 500_000
    request = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}]}
    text = "the image is too large: 2000000 bytes, at most 1000000 are allowed, and it begins with "
    assert error_text.message_of(text + "QUJD" * 20, request) == f"{text}***"
