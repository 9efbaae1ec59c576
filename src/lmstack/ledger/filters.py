"""Which requests a list shows. The same filter makes SQL for the ledger, and decides about a row that has just changed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmstack.ledger.migrations import DIMENSIONS

FAILED = "failed"  # as a status: everything that neither succeeded nor still runs
STATUSES = (FAILED, "succeeded", "started", "rejected", "interrupted")
_FAILED_SQL = "status NOT IN ('succeeded','started')"
# The columns that name a group, the first one that has a value counts.
_COLUMNS = {name: re.findall(r"[a-z_]+", re.sub("'.*?'", "", sql)) for name, sql in DIMENSIONS.items()}


@dataclass(frozen=True, slots=True)
class Filter:
    """``status``: one of STATUSES; ``groups``: a value for groupings of `lm usage`, with ``(none)`` for an empty one."""

    status: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, str]:
        """Return the conditions by name, as they are in a URL."""
        return ({"status": self.status} if self.status else {}) | dict(self.groups)

    def sql(self) -> tuple[list[str], list[str]]:
        """Return the conditions in SQL, and their values."""
        conditions, values = [], []
        if self.status:
            conditions.append(_FAILED_SQL if self.status == FAILED else "status = ?")
            values += [] if self.status == FAILED else [self.status]
        for name, value in self.groups.items():
            # A plain column can use its index.
            plain = name == "task" and value != "(none)"
            conditions.append(f"{'task_id' if plain else DIMENSIONS[name]} = ?")
            values.append(value)
        return conditions, values

    def admits(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of the table requests is shown."""
        if self.status and not _has_status(row["status"], self.status):
            return False
        return all(_group_of(row, name) == value for name, value in self.groups.items())


def _has_status(status: str, wanted: str) -> bool:
    return status not in ("succeeded", "started") if wanted == FAILED else status == wanted


def _group_of(row: Mapping[str, Any], name: str) -> str:
    found = next((row[column] for column in _COLUMNS[name] if row[column] is not None), None)
    return "(none)" if found is None else str(found)
