"""Half a minute of load with worker kills and changes: clients notice nothing, but for what a killed worker had in hand."""

import time
from pathlib import Path

import pytest

from campaign import Load, SlowProvider, kill_a_worker
from support import Stack, running


@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_and_changes_refuse_no_request_and_cut_no_stream(tmp_path: Path, workers: int) -> None:
    provider = SlowProvider(5)
    env = {
        "OPENAI_API_KEY": "sk-test-openai-0123456789",
        "OPENAI_API_BASE": provider.base,
        "LITELLM_WORKERS": str(workers),
    }
    took: list[float] = []
    with running(tmp_path, **env) as stack:
        load = Load(stack)
        with load.running():
            for n in range(3):
                began = load.answered
                while load.answered < began + 40:
                    time.sleep(0.1)
                kill_a_worker(load)
                stack.write_env(**env, LITELLM_TIMEOUT=str(100 + n), TASKMASTER_API_URL=f"http://127.0.0.1:{9 + n}")
                took.append(changed(stack))
        unexplained = load.beyond_killed_workers()
        print(
            f"{workers} workers: sent {load.sent}, answered {load.answered} of which {load.streams} streams of 5 s, "
            f"failed {len(load.failed)}, not explained by a killed worker {len(unexplained)}, "
            f"longest wait for a first byte {load.longest:.2f} s, changes took {took} s"
        )
        assert unexplained == []
        assert load.answered + len(load.failed) == load.sent
    provider.stop()


def changed(stack: Stack) -> float:
    """Run `lm up`, which must not need a restart, and return the seconds that it took."""
    preview = stack.json("up", "--dry-run")["data"]
    assert preview["action"] == "reload", preview
    done = stack.json("up")
    return float(done["data"]["ready_seconds"])
