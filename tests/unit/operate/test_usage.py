"""`lm usage` compares the cost with a model that this stack can serve."""

from pathlib import Path
from typing import Any

import pytest

from lmstack.config.settings import SETTINGS
from lmstack.operate.usage import cost_on_premium
from lmstack.stack.project import Project

ROWS = [{"prompt_tokens": 1_000_000, "completion_tokens": 0}, {"prompt_tokens": 0, "completion_tokens": 2_000_000}]
OWN = "models:\n  {name}: {{provider: openai, tier: 3, input: 0.5, output: 0.25}}\n"


@pytest.mark.parametrize(
    ("env", "models", "compared"),
    [
        ("OPENAI_API_KEY=sk-0123456789", OWN.format(name="mine"), {"model": "mine", "cost_usd": 1.0}),
        ("ANTHROPIC_API_KEY=sk-ant-0123456789", OWN.format(name="mine"), "claude"),  # mine is cheaper, but has no key
        ("", OWN.format(name="mine"), None),
        ("LITELLM_PORT=web", OWN.format(name="mine"), None),
    ],
)
def test_the_tokens_are_priced_at_what_serves_premium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str, models: str, compared: Any
) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)
    (tmp_path / ".env").write_text(f"{env}\n")
    (tmp_path / "models.yaml").write_text(models)
    found = cost_on_premium(Project(tmp_path), ROWS)
    if compared == "claude":
        assert found is not None
        assert found["model"].startswith("claude")
        assert found["cost_usd"] > 1
    else:
        assert found == compared
