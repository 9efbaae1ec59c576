"""Which requests a list shows. The same filter makes SQL for the ledger, and decides about a row that has just changed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lmstack.ledger.migrations import DIMENSIONS

FAILED = "failed"  # as a status: everything that neither succeeded nor still runs
STATUSES = (FAILED, "succeeded", "started", "rejected", "interrupted")
_FAILED_SQL = "status NOT IN ('succeeded','started')"


@dataclass(frozen=True, slots=True)
class Filter:
    """Exact values; None admits all. ``model`` to ``user`` are the groupings of `lm usage`, with ``(none)`` for an empty one."""

    status: str | None = None
    model: str | None = None
    provider: str | None = None
    tier: str | None = None
    task: str | None = None
    agent: str | None = None
    user: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Return the conditions by name, without those that admit all."""
        return {name: value for name, value in self.as_dict().items() if value is not None}

    def as_dict(self) -> dict[str, str | None]:
        """Return all conditions by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def sql(self) -> tuple[list[str], list[str]]:
        """Return the conditions in SQL, and their values."""
        conditions, values = [], []
        for name, value in self.given.items():
            if name == "status" and value == FAILED:
                conditions.append(_FAILED_SQL)
                continue
            # A plain column can use its index.
            plain = name == "task" and value != "(none)"
            conditions.append(f"{'status' if name == 'status' else 'task_id' if plain else DIMENSIONS[name]} = ?")
            values.append(value)
        return conditions, values

    def admits(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of the table requests is shown."""
        return all(self._matches(row, name, value) for name, value in self.given.items())

    @staticmethod
    def _matches(row: Mapping[str, Any], name: str, value: str) -> bool:
        if name == "status":
            return row["status"] not in ("succeeded", "started") if value == FAILED else row["status"] == value
        columns = {
            "model": ("deployment", "requested_model"), "provider": ("provider",), "tier": ("tier",),
            "task": ("task_id",), "agent": ("agent_id",), "user": ("user",),
        }[name]  # fmt: skip
        found = next((row[column] for column in columns if row[column] is not None), None)
        return ("(none)" if found is None else str(found)) == value
