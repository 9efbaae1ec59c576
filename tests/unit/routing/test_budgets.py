"""Limits in US dollars: which apply to a request, and how models.yaml states them."""

import re

from lmstack.catalog.models import parse_catalog
from lmstack.config.modelsfile import set_budget
from lmstack.routing.budgets import Limit, limits_for
from lmstack.stack.project import shipped_catalog
from support import ROOT


def test_an_own_limit_replaces_the_one_for_everybody() -> None:
    rules = (Limit("task", "*", "total", 1.0), Limit("task", "T", "total", 5.0), Limit("all", "", "day", 9.0))
    assert {(x.name, x.usd) for x in limits_for(rules, {"task": "T"})} == {("T", 5.0), ("", 9.0)}
    assert {(x.name, x.usd) for x in limits_for(rules, {"task": "U", "agent": "A"}, (), 0.2)} == {
        ("U", 1.0),
        ("", 9.0),
        ("U", 0.2),
    }
    assert limits_for((), {}) == ()


def test_a_daily_limit_resets_at_midnight_utc() -> None:
    (limit,) = limits_for((Limit("all", "", "day", 1.0),), {})
    assert limit.state(1.5, limit.reset_at(1_795_446_500))["resets_at"] == "2026-11-24T00:00:00+00:00"


def test_a_budget_is_written_without_losing_comments() -> None:
    text = "# my models\nmodels:\n  fast: {provider: openai, model: gpt-4o-mini}  # quick\n"
    new = set_budget(text, "task", "TM-1", "total", 0.5)
    assert new.startswith(text)
    assert "TM-1:" in new
    assert set_budget(new, "task", "TM-1", "total", None) == text
    assert set_budget("", "all", "", "day", 5.0) == "budgets:\n  all:\n    day: 5\n"


def test_the_documented_models_yaml_examples_are_valid() -> None:
    text = "".join((ROOT / "docs" / name).read_text() for name in ("routing.md", "providers.md"))
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(blocks) >= 3
    catalogs = [parse_catalog(shipped_catalog(), block) for block in blocks]
    catalog = next(c for c in catalogs if "openrouter" in c.providers)
    assert {"openrouter", "groq", "deepseek", "mistral", "azure"} <= catalog.providers.keys()
    assert catalog.models["codestral"].priced
