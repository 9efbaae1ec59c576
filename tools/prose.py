"""Check the prose of docs, docstrings, comments and messages: `tools/prose.py [PATH...]`.

It looks for the phrases of prose_words.yaml, for long sentences, for functions that are described by a noun, and runs
proselint.
"""

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from proselint.checks import __register__
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

from prose_text import CODE, Passage, passages

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs", "src", "callbacks", "tools", "bench")
# Words in a sentence. Docs have more room than a docstring that is read beside code.
LIMITS = {"docs": 30, "docstring": 25, "comment": 25, "message": 25}
# A sentence ends at a full stop before a space; "e.g." and a number's point do not end one.
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?…]+[)\"']*\s+(?=[A-Z`\"'(])")
# A function's docstring begins with a verb. These words cannot be one.
NO_VERB = re.compile(
    r"(?:The|An?|This|That|These|Those|It|Its|Our|Ours|One|Each|Every|Everything|All|Any|Anything|Nothing|None|No|Only|Most"
    r"|What|Whether|How|Why|Where|Which|Who|Whom|Whose|When|Until|After|Without|With|From|For|Into|On|In|At|As|To|Beyond"
    r"|Beside|Another|Several|Seconds|Milliseconds|Megabytes|Tokens|Names|Rows|Results|Events|Requests|Versions|Limits"
    r"|Images|Services|Flags|US|USD|CPU|JSON|SQL|Unix|LiteLLM|\S+Error|\S+'s|`code`'?s?)\b[:,]?(?=\s|$)|`code`"
)


# What proselint calls redundant is the field's term.
TERMS = {"cool down"}


class Finding(NamedTuple):
    """One thing to rewrite."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@functools.cache
def banned() -> list[tuple[re.Pattern[str], str]]:
    """Read the word list: pattern, and what to write in its place."""
    entries = yaml.safe_load((ROOT / "tools" / "prose_words.yaml").read_text(encoding="utf-8"))
    return [(re.compile(entry["find"], re.IGNORECASE), entry["write"]) for entry in entries]


def word_findings(passage: Passage) -> Iterator[str]:
    """Yield a message for each banned phrase."""
    for pattern, write in banned():
        for match in pattern.finditer(passage.text):
            yield f"'{match.group().strip()}' → {write}"


def sentence_findings(passage: Passage) -> Iterator[str]:
    """Yield a message for each sentence with too many words."""
    limit = LIMITS[passage.kind]
    for sentence in SENTENCE_END.split(passage.text):
        words = re.findall(r"[\w`][\w`'./-]*", sentence)
        if len(words) > limit:
            yield f"a sentence of {len(words)} words, at most {limit}: {' '.join(words[:6])} …"


def docstring_findings(passage: Passage) -> Iterator[str]:
    """Yield a message when the docstring of a function begins with a word that is no verb."""
    match = NO_VERB.match(passage.text)
    if passage.kind == "docstring" and passage.of == "function" and match:
        yield f"begins with '{match.group()}' → begin with a verb: Return, Write, Check …"


def proselint_findings(found: list[Passage]) -> Iterator[tuple[int, str]]:
    """Yield line and message of each finding of proselint."""
    if not CheckRegistry().checks:
        CheckRegistry().register_many(__register__)
    # Straight quotes and three dots are meant; a table says the same number twice.
    checks = {**DEFAULT["checks"], "typography": False, "lexical_illusions": False}
    text = "\n\n".join(passage.text for passage in found)
    if not text.strip():
        return
    file = LintFile(Path("prose"), text)
    file._compute_bounds()
    for result in file.lint({"checks": checks, "max_errors": 1000}):
        begin, end = result.check_result.span
        if CODE in file.content[begin:end] or file.content[begin:end].lower() in TERMS:
            continue
        passage = found[file.content[1:begin].count("\n\n")]
        yield passage.line, f"{result.check_result.message} (proselint {result.check_result.check_path})"


def findings(path: Path) -> list[Finding]:
    """Return everything to rewrite in one file."""
    found = passages(path)
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    checks = (word_findings, sentence_findings, docstring_findings)
    ours = [(p.line, message) for p in found for check in checks for message in check(p)]
    return [Finding(name, line, message) for line, message in sorted({*ours, *proselint_findings(found)})]


def files(paths: list[Path]) -> list[Path]:
    """Return the Markdown and Python files at and below the paths."""
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [file for file in found if file.suffix in (".md", ".py") and "__pycache__" not in file.parts]


def main(arguments: list[str]) -> int:
    """Print the findings; return 1 when there are any."""
    paths = [Path(a).resolve() for a in arguments] or [ROOT / name for name in CHECKED if (ROOT / name).exists()]
    if missing := [path for path in paths if not path.exists()]:
        print(f"prose: no such file: {missing[0]}", file=sys.stderr)
        return 2
    checked = files(paths)
    bad = [finding for file in checked for finding in findings(file)]
    for finding in bad:
        print(finding)
    print(f"prose: {len(bad)} findings in {len(checked)} files")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
