"""The short forms of the fault campaigns; `make faults` runs the long ones."""

import pytest
from bench.faults.campaigns import CAMPAIGNS


# Two workers are killed in the long form only: their restarts take minutes, and tests/contract stops two under load.
@pytest.mark.parametrize("name", [name for name in CAMPAIGNS if name != "sigkill-two-workers"])
def test_campaign_loses_nothing(name: str) -> None:
    counts = CAMPAIGNS[name](True)
    if "skipped" in counts:
        pytest.skip(str(counts["skipped"]))
    assert counts["lost"] == 0, counts
