"""A filter admits the same requests in SQL and in Python."""

import itertools
import sqlite3
from contextlib import closing

import pytest

import page_site
from lmstack.ledger import queries
from lmstack.ledger.filters import FAILED, STATUSES, Filter
from lmstack.ledger.migrations import DIMENSIONS


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    path = tmp_path_factory.mktemp("filters") / "litellm.db"
    page_site.fill(path, 200, 2)
    for status in ("failed", "interrupted"):  # few requests are made by night, perhaps none of them failed
        page_site.write_one(path, status=status, task="(none)")
    return queries.open_ledger(path)


def test_sql_and_python_agree(conn: sqlite3.Connection) -> None:
    everything = queries.filtered(conn, Filter(), limit=1000)
    values = {name: [row["name"] for row in queries.usage(conn, name)] for name in DIMENSIONS}
    pairs = [(name, value) for name, found in values.items() for value in (*found, "(none)", "nothing")]
    assert len(pairs) > 20
    for status, (name, value) in itertools.product((None, *STATUSES), pairs):
        wanted = Filter(status, {name: value})
        by_sql = [row["id"] for row in queries.filtered(conn, wanted, limit=1000)]
        assert by_sql == [row["id"] for row in everything if wanted.admits(row)], wanted


def test_failed_is_each_end_without_an_answer(conn: sqlite3.Connection) -> None:
    found = {row["status"] for row in queries.filtered(conn, Filter(FAILED), limit=1000)}
    assert found == {"failed", "interrupted"}
    with closing(conn):
        assert queries.filtered(conn, Filter(groups={"task": "it's -- \""})) == []
