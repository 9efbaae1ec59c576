"""The short forms of the fault campaigns. `make faults` runs the long ones."""

from collections.abc import Iterator

import pytest
from bench.faults.campaigns import ON_ONE_STACK, outage_24h, routing
from bench.faults.loaded_stack import Counts, LoadedStack, loaded_stack


@pytest.fixture(scope="module")
def faulty_stack() -> Iterator[LoadedStack]:
    """Start one stack for all campaigns that can follow each other. Its counts are balanced after each of them."""
    with loaded_stack(disk="64m") as made:
        yield made


def check(counts: Counts) -> None:
    if "skipped" in counts:
        pytest.skip(str(counts["skipped"]))
    assert counts["lost"] == 0, counts


@pytest.mark.parametrize("name", ON_ONE_STACK)
def test_a_campaign_loses_nothing(faulty_stack: LoadedStack, name: str) -> None:
    check(ON_ONE_STACK[name](True, faulty_stack))


# sigkill-two-workers has a long form only: test_lifecycle.py kills a server of two workers and one of its workers.
@pytest.mark.exhaustive
@pytest.mark.parametrize("campaign", [outage_24h, routing])
def test_a_campaign_of_its_own_loses_nothing(campaign: object) -> None:
    check(campaign(True))  # type: ignore[operator]
