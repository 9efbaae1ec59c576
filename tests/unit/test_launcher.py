"""start-litellm.sh runs under the bash 3.2 and the BSD tools of macOS."""

import re

import pytest

from support import ROOT

SCRIPT = (ROOT / "start-litellm.sh").read_text()
CODE = "\n".join(line for line in SCRIPT.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\b(?:declare|local|typeset)\s+-[A-Za-z]*[Agn]", "associative arrays and namerefs came with bash 4"),
        (r"\b(?:mapfile|readarray|coproc)\b", "bash 4"),
        (r"\$\{\w+(?:\[[^]]*\])?(?:,,|\^\^|@[A-Z])", "changing case came with bash 4"),
        (r"&>>|\|&|;;&|;&", "bash 4"),
        (r"\bprintf\b[^\n]*%\(", "times in printf came with bash 4"),
        (r"\breadlink -f|\brealpath\b|\bsed -i|\bdate -d|\bgrep -[a-zA-Z]*P|\bstat -c|\bmktemp -p|\bxargs -r|\btimeout\b", "GNU only"),
        (r"\bss\b|/proc/|\bnproc\b|\bsha256sum\b", "Linux only"),
    ],
)  # fmt: skip
def test_it_uses_nothing_that_macos_lacks(pattern: str, why: str) -> None:
    assert not re.findall(pattern, CODE), why


def test_an_empty_array_is_only_expanded_where_it_is_set() -> None:
    """Under ``set -u`` bash 3.2 takes an empty array for an unset variable."""
    bare = re.findall(r'"\$\{(\w+)\[@\]\}"', re.sub(r'\$\{(\w+)\[@\]\+"\$\{\1\[@\]\}"\}', "", CODE))
    assert bare == []
