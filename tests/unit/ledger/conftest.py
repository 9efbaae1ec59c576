"""Fixtures of the ledger's tests."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger_records import make_writer
from lmstack.ledger import schema
from lmstack.ledger import writer as ledger_writer


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Return the path of a ledger that does not exist yet."""
    return tmp_path / "litellm.db"


@pytest.fixture
def writer(ledger: Path) -> Iterator[ledger_writer.Writer]:
    """Give a writer with short times."""
    one = make_writer(ledger)
    yield one
    one.close()


@pytest.fixture
def conn(ledger: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a new ledger that has its tables."""
    made = schema.connect(ledger)
    schema.migrate(made)
    yield made
    made.close()
