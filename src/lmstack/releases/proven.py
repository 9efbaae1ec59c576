"""Tell which LiteLLM releases this lmstack was tested with: what `make test-against` has written into proven.json."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from lmstack.releases.allowed import numbers
from lmstack.releases.pins import LITELLM_VERSION

FILE = "proven.json"


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of tests/contract and tests/integration with a release.

    ``date``: YYYY-MM-DD. ``skipped``: how many tests, by reason. ``left_out``: those that this release cannot pass, by
    reason. ``missing``: the private names that it lacks (gateway/stock/uses.py).
    """

    release: str
    date: str
    passed: int
    failed: int
    skipped: Mapping[str, int]
    left_out: Mapping[str, int]
    missing: tuple[str, ...]


@functools.cache
def runs() -> tuple[Run, ...]:
    """Return the last run of each release, newest release first."""
    text = resources.files("lmstack.releases").joinpath(FILE).read_text(encoding="utf-8")
    found = (Run(**{**entry, "missing": tuple(entry["missing"])}) for entry in json.loads(text))
    return tuple(sorted(found, key=lambda run: numbers(run.release), reverse=True))


def proven() -> tuple[str, ...]:
    """Return the releases with which every test passed, newest first."""
    return tuple(run.release for run in runs() if not run.failed)


def is_proven(version: str) -> bool:
    """Return whether a release is proven. The pinned one is: lmstack itself is tested with it."""
    return numbers(version) in {numbers(known) for known in (LITELLM_VERSION, *proven())}


def upgrade_command(version: str) -> str:
    """Return the command that moves to a release."""
    return f"lm upgrade --to {version}" + ("" if is_proven(version) else " --unproven")
