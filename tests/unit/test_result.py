"""How results are said to people."""

import json

import pytest

from lmstack.errors import LmError
from lmstack.result import Result, cells, clean, counted, failure, show, table, uncoloured, usd


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "unknown"),
        (0.0, "$0.00"),
        (0.0000002, "<$0.000001"),
        (0.00015, "$0.00015"),
        (0.5, "$0.50"),
        (0.000001, "$0.000001"),
        (12.5, "$12.50"),
    ],
)
def test_a_cost_for_people(amount: float | None, text: str) -> None:
    assert usd(amount) == text


@pytest.mark.parametrize(
    "text", ["a\u202eb", "a\u200bb", "a\x1b[2Jb", "a\ufeffb", "a\ud800b", "a\u2066b", "a\U000e0041b"]
)
def test_what_turns_or_hides_text_is_shown_as_a_mark(text: str) -> None:
    assert "\N{REPLACEMENT CHARACTER}" in clean(text)
    assert clean(text).encode().decode().isprintable()


@pytest.mark.parametrize("text", ["plain", "Grüße", "日本語", "🎉", "a\tb"])
def test_what_people_write_stays(text: str) -> None:
    assert clean(text) == text


def test_a_table_counts_the_cells_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("日本語", "1"), ("🎉", "22"), ("abc", "333"), ("a\u200bb", "4")]
    lines = table(("NAME", "N"), rows, frozenset({1}))
    assert {cells(line) for line in lines} == {11}
    monkeypatch.setattr("lmstack.result.terminal_width", lambda: 6)
    assert [cells(line) <= 6 for line in table(("NAME",), [("日本語日本語",), ("abcdefgh",)])] == [True] * 3


def test_a_message_does_not_repeat_a_whole_file() -> None:
    told = failure("x", LmError(f"no '{'y' * 10_000}'", "look"))
    assert len(told.lines[0]) < 300
    assert len(told.data["error"]) < 300


def test_json_is_sound_also_with_a_file_name_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(Result("x", {"file": "a\udcff", "smile": "🎉"}), as_json=True, quiet=False)
    text = capsys.readouterr().out
    assert json.loads(text)["data"] == {"file": "a?", "smile": "🎉"}
    assert "\\udcff" not in text


def test_a_log_line_has_neither_colours_nor_commands_for_the_terminal() -> None:
    assert clean(uncoloured("\x1b[31mred\x1b[0m \x1b[2J")) == "red \N{REPLACEMENT CHARACTER}[2J"


@pytest.mark.parametrize(
    ("exit_code", "errors", "printed"),
    [(0, (), ""), (5, ("broken: why",), "broken: why\n"), (5, (), "a table\nbroken: why\n")],
)
def test_quiet_prints_only_what_is_wrong_and_on_stderr(
    capsys: pytest.CaptureFixture[str], exit_code: int, errors: tuple[str, ...], printed: str
) -> None:
    result = Result("x", lines=("a table", "broken: why"), exit=exit_code, errors=errors)
    show(result, as_json=False, quiet=True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", printed)


def test_a_number_goes_with_its_noun() -> None:
    assert [counted(n, "answer") for n in (0, 1, 2)] == ["0 answers", "1 answer", "2 answers"]


def test_a_model_name_of_any_length_leaves_the_other_columns_in_sight() -> None:
    from lmstack.cli.requests import _model

    assert [_model(name) for name in (None, "gpt-4o", "a" * 60)] == ["-", "gpt-4o", "a" * 60]
    assert _model("a" * 200) == "a" * 59 + "…"
