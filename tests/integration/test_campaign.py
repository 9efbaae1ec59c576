"""Minutes of load with worker kills and changes: clients notice nothing, but for what a killed worker had in hand."""

from pathlib import Path

import pytest

from campaign import SlowProvider, campaign
from support import running


@pytest.mark.campaign
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_and_changes_refuse_no_request_and_cut_no_stream(tmp_path: Path, workers: int) -> None:
    provider = SlowProvider(5)
    env = {
        "OPENAI_API_KEY": "sk-test-openai-0123456789",
        "OPENAI_API_BASE": provider.base,
        "LITELLM_WORKERS": str(workers),
    }
    with running(tmp_path, **env) as stack:
        campaign(stack, env, rounds=10)
    provider.stop()
