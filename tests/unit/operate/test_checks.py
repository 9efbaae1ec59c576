"""What `lm doctor` says about the models of a plan."""

from types import SimpleNamespace

import pytest

from lmstack.catalog.models import Model, parse_catalog
from lmstack.operate import checks
from lmstack.stack.plan import Deployment
from lmstack.stack.project import shipped_catalog

CATALOG = parse_catalog(shipped_catalog())


@pytest.mark.parametrize(
    ("name", "mode", "warned"),
    [
        ("whisper-1", "audio_transcription", False), ("tts-1", "audio_speech", False), ("gpt-realtime", "realtime", False),
        ("gpt-image-1", "image_generation", False), ("nobody-sells-this", "audio_speech", True), ("whisper-1", "chat", True),
    ],
)  # fmt: skip
def test_a_model_is_reported_only_if_a_budget_does_not_know_its_price(name: str, mode: str, warned: bool) -> None:
    deployment = Deployment(Model("m", "openai", name, mode=mode), CATALOG.providers["openai"], f"openai/{name}", None, None)  # fmt: skip
    plan = SimpleNamespace(deployments=(deployment,))
    assert bool(checks.models(plan)) == warned  # type: ignore[arg-type]
