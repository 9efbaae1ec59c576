"""How results are said to people."""

import pytest

from lmstack.result import usd


@pytest.mark.parametrize(
    ("amount", "text"),
    [(None, "unknown"), (0.0, "$0.00"), (0.0000002, "<$0.000001"), (0.00015, "$0.00015"), (12.5, "$12.50")],
)
def test_a_cost_for_people(amount: float | None, text: str) -> None:
    assert usd(amount) == text
