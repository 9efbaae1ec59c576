"""The prose linter finds what is hard to read, says where, and leaves plain English and code alone."""

from pathlib import Path

import pytest

import prose

DOCSTRINGS_TO_REWRITE = [
    ('def owner():\n    """Whose a failed attempt is: the provider\'s, or the request\'s own."""\n', "Whose"),
    ('def rules():\n    """This worker\'s."""\n', "begins with 'This'"),
    ('def lock():\n    """Whether the lock is free."""\n', "begins with 'Whether'"),
    ('def end():\n    """Write a record, and say once that it was lost."""\n', "say once"),
    ('def take():\n    """Take over a spool that nobody has."""\n', "nobody"),
    ('def row():\n    """Return what stands on the ledger."""\n', "stands"),
    ('def send():\n    """Send what is owed to TaskMaster."""\n', "owed"),
]
PLAIN = [
    'def limits():\n    """Return the limits that apply to a request."""\n',
    'def write():\n    """Write one record to the spool."""\n',
    'class Lock:\n    """A lock that one process holds."""\n',
    'def keep():\n    """Return True when the value is None, and leave INFO alone."""\n',
    'QUERY = "SELECT whose FROM doors WHERE nobody = 1 AND told = 2"\n',
    '# `nobody` is the user of the container.\nUSER = "nobody"\n',
]


def found(tmp_path: Path, name: str, text: str) -> list[prose.Finding]:
    """Return the findings in a file with this text."""
    path = tmp_path / name
    path.write_text(text)
    return prose.findings(path)


@pytest.mark.parametrize(("source", "named"), DOCSTRINGS_TO_REWRITE)
def test_a_riddle_in_a_docstring_is_found(tmp_path: Path, source: str, named: str) -> None:
    findings = found(tmp_path, "module.py", source)
    assert any(named in finding.message and finding.line == 2 for finding in findings), findings


@pytest.mark.parametrize("source", PLAIN)
def test_plain_english_and_code_have_no_findings(tmp_path: Path, source: str) -> None:
    assert found(tmp_path, "module.py", source) == []


@pytest.mark.parametrize(
    "source",
    [
        'raise LmError("the spool is there, but nobody has it")\n',
        'raise LmError(f"the spool {path} is there, but nobody has it")\n',
        'log.warning("the ledger took nothing, and nobody is told")\n',
        'port = Option(help="The port which nobody has so far.")\n',
        "x = 1  # a door into the proxy that nobody uses\n",
    ],
)
def test_messages_help_and_comments_are_read(tmp_path: Path, source: str) -> None:
    assert any("nobody" in finding.message for finding in found(tmp_path, "module.py", source))


def test_a_long_sentence_is_found_and_two_short_ones_are_not(tmp_path: Path) -> None:
    long = "The gateway " + "and the ledger " * 11 + "end here."
    assert "37 words, at most 30" in found(tmp_path, "page.md", f"# Title\n\n{long}\n")[0].message
    assert found(tmp_path, "page.md", "# Title\n\n" + "The gateway writes one row for each request. " * 4) == []


def test_code_of_a_page_is_left_out(tmp_path: Path) -> None:
    text = "Run it:\n\n```bash\necho nobody is told whose door it was\n```\n\nThe value is `whose`.\n"
    assert found(tmp_path, "page.md", text) == []


def test_table_cells_are_read_with_their_line(tmp_path: Path) -> None:
    findings = found(tmp_path, "page.md", "| a | b |\n|---|---|\n| one | told twice |\n")
    assert [finding.line for finding in findings] == [3]
    assert "told" in findings[0].message


def test_proselint_runs(tmp_path: Path) -> None:
    findings = found(tmp_path, "page.md", "# Title\n\nFirst.\n\nThis is a very unique gateway.\n")
    assert any("proselint" in finding.message and finding.line == 5 for finding in findings), findings


def test_a_missing_path_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert prose.main(["/no/such/page.md"]) == 2
    assert "no such file: /no/such/page.md" in capsys.readouterr().err
