"""The docs are true: the guide's headings have pages, links and paths exist, commands exist as written, the site builds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import docs_site
import lmstack
import recording
from lmstack.config.settings import SETTINGS
from lmstack.releases.allowed import version_objection
from support import ROOT

# The help page of each command, as `lm` prints it; tests/contract/test_cli.py compares them with Typer.
HELP: dict[str, str] = json.loads((ROOT / "src" / "lmstack" / "help.json").read_text())
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# The headings of the setup guide that users follow.
GUIDE = """Overview; Quick Start; Architecture; Docker Configuration; Provider Support; Cost Optimization; Configuration Files;
`Dockerfile`; `docker-compose.yml`; `litellm-config.yaml`; Environment Variables; Required API Keys; Optional Configuration;
Usage Examples; Basic Chat Completion; Health Check; List Available Models; Cost Optimization Features; Priority-Based Routing;
Automatic Fallbacks; Cost Thresholds; TaskMaster Integration; Callback Functions; API Integration; Monitoring and Logging;
Container Logs; Health Monitoring; Database Logging; Troubleshooting; Common Issues; Container Won't Start; API Key Issues;
Provider Failures; Development Commands; Security Considerations; Next Steps; Support"""


def anchors(page: Path) -> set[str]:
    """What a forge makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_every_heading_of_the_setup_guide_has_its_page() -> None:
    rows = re.findall(r"^\| (.+?) \| \[", (ROOT / "docs" / "guide.md").read_text(), re.MULTILINE)
    assert rows == [" ".join(head.split()) for head in GUIDE.split(";")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def mentioned(text: str) -> set[tuple[str, ...]]:
    """Every `lm ...` of a page: in code spans and at the start of a line of a code block."""
    spans = re.findall(r"`lm ([^`]+)`", text)
    blocks = [
        line for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    ]
    lines = [line[3:].partition("  ")[0] for line in blocks if line.startswith("lm ")]
    return {tuple(said.split()) for said in (*spans, *lines)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    groups = {name.split()[0] for name in HELP if " " in name}
    for said in mentioned(page.read_text()):
        words = said[:2] if said[0] in groups else said[:1]
        if said[0].isupper() or said in {(group,) for group in groups} or said[0].startswith("-"):
            continue
        name = words[0] if len(words) < 2 else f"{words[0]} {words[1].partition('|')[0]}"
        assert name in HELP, " ".join(said)
        for option in (o for o in said if o.startswith("--") and o != "--"):
            assert option.partition("=")[0] in HELP[name], " ".join(said)


@pytest.mark.parametrize("page", [*PAGES, ROOT / ".env.example", ROOT / "Dockerfile"], ids=lambda p: p.name)
def test_a_release_that_an_example_names_may_run(page: Path) -> None:
    for version in re.findall(r"(?:--to |LITELLM_VERSION=)(\d+\.\d+\.\d+)", page.read_text()):
        assert version_objection(version) == "", version


# Files and folders that a user's machine has, and not the repository.
MADE = re.compile(
    r"^(/|~|\.lmstack|\.venv|logs/|backups/|dist/|build/|litellm\.db|models\.yaml|\.env|report|lmstack-|answer)|\.\.\.|…|\*|[A-Z]{4,}"
)
PATH = re.compile(
    r"^[\w./-]+(?:/|\.(?:py|md|yaml|yml|json|toml|txt|sh|svg|cfg))$|^(?:src|tests|docs|tools|bench|\.ci)/[\w./-]*\w$"
)


def paths_of(text: str) -> set[str]:
    """Return what a page names in code spans, commands or brackets, that looks like a file or a folder."""
    blocks = " ".join(re.findall(r"```(.*?)```", text, flags=re.DOTALL))
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", text)
    # A command names files among other words. A bare word in it, for example `report.json`, may be the user's own.
    words = [
        word for words in (*(span for span in spans if " " in span), blocks) for word in words.split() if "/" in word
    ]
    bracketed = re.findall(r"\(([\w./]+/[\w.]+\.py)\)", text)
    return {name for name in (*spans, *words, *bracketed) if PATH.match(name) and not MADE.search(name)}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    roots = (ROOT, ROOT / "src" / "lmstack", page.parent)
    missing = [path for path in paths_of(page.read_text()) if not any((root / path).exists() for root in roots)]
    assert missing == []


@pytest.mark.parametrize(
    "text",
    [
        "`tests/gone.py`",
        "(tests/gone.py)",
        "`.venv/bin/python -m pytest tests/gone.py -k cheapest`",
        "| run one file | `pytest tests/gone.py` |",
        "```bash\npython tests/gone.py --check\n```",
    ],
)
def test_a_file_is_found_wherever_a_page_names_it(text: str) -> None:
    assert paths_of(text) == {"tests/gone.py"}


def test_a_folder_in_a_command_is_found_without_its_slash() -> None:
    assert paths_of("`pytest tests/unit/gone`") == {"tests/unit/gone"}


def test_the_pages_that_lead_a_newcomer_do_name_files() -> None:
    for page in (ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"):
        assert len(paths_of(page.read_text())) > 15, page.name


def test_every_threat_names_a_test_that_exists() -> None:
    threats = (ROOT / "docs" / "security.md").read_text().partition("\n## Threats\n")[2].partition("\n## ")[0]
    tables = re.findall(
        r"^\| what .* \| what stops .* \| proven by \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", threats, re.MULTILINE
    )
    assert len(tables) == threats.count("\n### ") == 9
    for row in "".join(tables).splitlines():
        named = re.findall(r"`(tests/[^`]*)`", row.split(" | ")[-1])
        assert named, row
        assert [path for path in named if not (ROOT / path).is_file()] == [], row


FINDINGS = [f"H{n}" for n in range(1, 5)] + [f"M{n}" for n in range(1, 11)] + [f"L{n}" for n in range(1, 12)]


def test_every_finding_of_the_review_names_tests_that_exist() -> None:
    section = (
        (ROOT / "docs" / "security.md").read_text().partition("\n## Findings of the review\n")[2].partition("\n## ")[0]
    )
    rows = [row.strip("| ").split(" | ") for row in section.splitlines() if re.match(r"\| [HML]\d", row)]
    assert [row[0] for row in rows] == FINDINGS
    for finding, _, proof in rows:
        named = re.findall(r"`([^`:]+)::(test_\w+)`", proof)
        assert named, finding
        missing = [f"{path}::{name}" for path, name in named if f"\ndef {name}(" not in (ROOT / path).read_text()]
        assert missing == [], finding


def test_the_version_is_the_same_everywhere() -> None:
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\d\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project
    assert newest
    assert project.group(1) == lmstack.__version__ == newest.group(1)


def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "") -> subprocess.CompletedProcess[str]:
    """Build the site in a folder of its own, with more text on one page."""
    monkeypatch.setattr(docs_site, "SOURCE", tmp_path / "site")
    docs_site.write_source()
    with (tmp_path / "site" / "docs" / "quickstart.md").open("a") as page:
        page.write(extra)
    argv = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    return subprocess.run(argv, cwd=tmp_path / "site", capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zensical needs Python 3.11")
def test_the_site_builds_strictly_with_every_page_and_a_search_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = site(tmp_path, monkeypatch)
    assert done.returncode == 0, done.stdout + done.stderr
    html = tmp_path / "site" / "html"
    built = {path.stem for path in html.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} | {"contributing", "changelog"} <= built
    assert "taskmaster" in (html / "search.json").read_text()
    assert (html / "assets" / "terminal.svg").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zensical needs Python 3.11")
@pytest.mark.parametrize("link", ["nowhere.md", "calls.md#nowhere"])
def test_a_broken_link_stops_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    assert site(tmp_path, monkeypatch, f"\n[gone]({link})\n").returncode != 0


def test_the_recording_shows_the_commands_that_it_ran() -> None:
    shown = (ROOT / "docs" / "assets" / "terminal.svg").read_text().replace("&#160;", " ")
    for command in recording.COMMANDS:
        assert command.splitlines()[0].format(port=4000).replace('"', "&quot;")[:30] in shown.replace(
            "&#34;", "&quot;"
        ), command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_that_are_named_exist(page: Path) -> None:
    ours = {s.name for s in SETTINGS}
    stock = {
        "LITELLM_LOG",
        "LITELLM_RUST",
        "LITELLM_LOCAL_MODEL_COST_MAP",
        "LITELLM_WORKER_STARTUP_HOOKS",
        "LITELLM_DONT_SHOW_FEEDBACK_BOX",
    }
    named = set(re.findall(r"\b((?:LITELLM|TASKMASTER|LEDGER|REDIS)_[A-Z_]*[A-Z])\b", page.read_text()))
    assert named <= ours | stock | {"LEDGER_PATH", "LITELLM_MEMORY", "LITELLM_API_KEY"}
