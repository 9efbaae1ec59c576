"""The docs hold: every heading of the setup guide has its page, links lead somewhere, commands exist as written."""

import re
from pathlib import Path

import pytest

import generate
from lmstack.config.settings import SETTINGS
from support import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
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
    known = dict.fromkeys(generate.command_names(), generate.help_text)
    groups = {words[0] for words in known if len(words) > 1}
    for said in mentioned(page.read_text()):
        words = said[:2] if said[0] in groups else said[:1]
        if said[0].isupper() or said in {(group,) for group in groups} or said[0].startswith("-"):
            continue
        name = words[0] if len(words) < 2 else f"{words[0]} {words[1].partition('|')[0]}"
        assert tuple(name.split()) in known, " ".join(said)
        options = [o for o in said if o.startswith("--") and o != "--"]
        text = HELP.setdefault(name, generate.help_text(*name.split())) if options else ""
        for option in options:
            assert option.partition("=")[0] in text, " ".join(said)


HELP: dict[str, str] = {}


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
    assert named <= ours | stock | {"LEDGER_PATH", "LITELLM_MEMORY"}
