"""The ledger's schema as a story: one numbered migration per change, each applied in one transaction.

Only the writer migrates. A reader that meets a newer ledger refuses, it never alters a file.
Times are Unix seconds (UTC, REAL); durations milliseconds (REAL); costs US dollars (REAL, NULL = unknown).
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class LedgerVersionError(Exception):
    """The file was written by a newer lmstack than this one."""


def _m001_requests_attempts_outbox(conn: sqlite3.Connection) -> None:
    """The first ledger: what was asked, what each provider did, and what TaskMaster must still learn."""
    conn.execute(
        """
        CREATE TABLE requests (
            id TEXT PRIMARY KEY,             -- ours: a client can choose LiteLLM's call id, so that is no key
            call_id TEXT,                    -- the x-litellm-call-id response header
            trace_id TEXT,
            started_at REAL NOT NULL,
            ended_at REAL,
            status TEXT NOT NULL CHECK (status IN ('started','succeeded','failed','rejected','interrupted')),
            endpoint TEXT,
            stream INTEGER NOT NULL DEFAULT 0,
            requested_model TEXT,
            deployment TEXT,                 -- the public name that served it
            served_model TEXT,               -- the model really called, as the provider names it
            provider TEXT,
            tier INTEGER,
            prompt_tokens INTEGER,
            completion_tokens INTEGER,
            cached_tokens INTEGER,
            reasoning_tokens INTEGER,
            cost_usd REAL,                   -- NULL: the price is unknown; 0: it is free
            latency_ms REAL,
            ttft_ms REAL,                    -- time to first token, streams only
            attempts INTEGER NOT NULL DEFAULT 0,
            fallbacks INTEGER NOT NULL DEFAULT 0,
            cache_hit INTEGER NOT NULL DEFAULT 0,
            task_id TEXT,
            agent_id TEXT,
            user TEXT,
            key_alias TEXT,
            tags TEXT,                       -- JSON array
            error_type TEXT,
            error_code TEXT,
            error_message TEXT,              -- redacted and cut
            worker TEXT NOT NULL             -- which worker process owns the row until it has ended
        )
        """
    )
    conn.execute("CREATE INDEX requests_by_start ON requests (started_at)")
    conn.execute("CREATE INDEX requests_by_task ON requests (task_id, started_at) WHERE task_id IS NOT NULL")
    conn.execute("CREATE INDEX requests_open ON requests (worker) WHERE status = 'started'")
    conn.execute(
        """
        CREATE TABLE attempts (
            request_id TEXT NOT NULL REFERENCES requests (id),
            number INTEGER NOT NULL,         -- 1 is the first provider that was tried
            deployment TEXT,
            model TEXT,
            provider TEXT,
            started_at REAL NOT NULL,
            latency_ms REAL,
            outcome TEXT NOT NULL CHECK (outcome IN ('succeeded','failed','interrupted')),
            error_type TEXT,
            error_code TEXT,
            error_message TEXT,
            PRIMARY KEY (request_id, number)
        )
        """
    )
    conn.execute(
        """
        CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL UNIQUE,   -- ce-id, webhook-id and idempotency key in one
            type TEXT NOT NULL,
            order_key TEXT NOT NULL,         -- events with one key are delivered in the order of seq
            created_at REAL NOT NULL,
            payload TEXT NOT NULL,
            state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending','leased','delivered','dead')),
            attempts INTEGER NOT NULL DEFAULT 0,
            next_attempt_at REAL NOT NULL,
            lease_owner TEXT,
            lease_until REAL,
            delivered_at REAL,
            last_error TEXT
        )
        """
    )
    conn.execute("CREATE INDEX outbox_open ON outbox (order_key, seq) WHERE state IN ('pending','leased')")
    conn.execute("CREATE INDEX outbox_due ON outbox (next_attempt_at, seq) WHERE state IN ('pending','leased')")
    conn.execute(
        """
        CREATE TABLE totals (                -- running cost per task and agent, so that a cost event needs no scan
            kind TEXT NOT NULL CHECK (kind IN ('task','agent')),
            id TEXT NOT NULL,
            cost_usd REAL NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (kind, id)
        ) WITHOUT ROWID
        """
    )
    # A row whose worker has stopped beating can never be ended by it: that is how orphans are found.
    conn.execute("CREATE TABLE workers (id TEXT PRIMARY KEY, started_at REAL NOT NULL, beat_at REAL NOT NULL)")


def _m002_rollups_and_estimates(conn: sqlite3.Connection) -> None:
    """Usage over millions of rows must answer at once, and outlive the rows; an interrupted call gets an estimate."""
    conn.execute(
        """
        CREATE TABLE rollups (               -- sums per hour and dimension, written with each request's end
            dimension TEXT NOT NULL,         -- task, agent, model, provider, tier, user
            name TEXT NOT NULL,
            hour INTEGER NOT NULL,           -- Unix seconds / 3600, of started_at
            requests INTEGER NOT NULL,
            failures INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            unpriced INTEGER NOT NULL,       -- answers of unknown price: their cost is not in cost_usd
            PRIMARY KEY (dimension, hour, name)
        ) WITHOUT ROWID
        """
    )
    conn.execute("ALTER TABLE requests ADD COLUMN cost_estimated INTEGER NOT NULL DEFAULT 0")
    conn.execute("ALTER TABLE requests ADD COLUMN estimate_usd REAL")  # made at the start, from the prompt's length
    for dimension, expression in DIMENSIONS.items():
        conn.execute(
            f"INSERT INTO rollups SELECT ?, {expression}, CAST(started_at AS INTEGER) / 3600, COUNT(*), "  # noqa: S608 - literals
            "SUM(status != 'succeeded'), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), "
            "COALESCE(SUM(cost_usd), 0.0), SUM(status = 'succeeded' AND cost_usd IS NULL) "
            "FROM requests WHERE status != 'started' GROUP BY 2, 3",
            (dimension,),
        )
    # Retention walks from the oldest event; delivered ones are found without reading the open ones.
    conn.execute("CREATE INDEX outbox_delivered ON outbox (delivered_at) WHERE state = 'delivered'")


def _m003_lanes(conn: sqlite3.Connection) -> None:
    """A task's events go one after the other, so what is due, and who holds it, belongs to the task, not to each
    event: finding the next thing to send must not slow down when one task has a backlog of thousands."""
    conn.execute(
        """
        CREATE TABLE lanes (                 -- one row per order key with open events
            order_key TEXT PRIMARY KEY,
            due_at REAL NOT NULL,
            asked INTEGER NOT NULL DEFAULT 0, -- the receiver itself named the time (Retry-After)
            lease_owner TEXT,
            lease_until REAL
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        "INSERT INTO lanes (order_key, due_at) SELECT order_key, MIN(next_attempt_at) FROM outbox "
        "WHERE state IN ('pending','leased') GROUP BY order_key"
    )
    conn.execute("CREATE INDEX lanes_due ON lanes (due_at)")
    conn.execute("DROP INDEX outbox_due")


def _m004_reservations(conn: sqlite3.Connection) -> None:
    """Budgets hold over several workers: what is under way keeps its estimated cost aside until the real one is known."""
    conn.execute("ALTER TABLE requests ADD COLUMN reserved_usd REAL")  # only counts while the request is open


# What usage can be grouped by; the SQL gives the same name as the rollup that the writer keeps.
DIMENSIONS = {
    "task": "COALESCE(task_id, '(none)')",
    "agent": "COALESCE(agent_id, '(none)')",
    "model": "COALESCE(deployment, requested_model, '(none)')",
    "provider": "COALESCE(provider, '(none)')",
    "tier": "COALESCE(CAST(tier AS TEXT), '(none)')",
    "user": "COALESCE(user, '(none)')",
}

MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _m001_requests_attempts_outbox,
    _m002_rollups_and_estimates,
    _m003_lanes,
    _m004_reservations,
)
VERSION = len(MIGRATIONS)


# A worker that has not beaten for this long is gone: what it started and never ended was interrupted.
DEAD_AFTER_SECONDS = 15.0
BUSY_MS = 250


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing: WAL, so that readers and several workers do not wait for each other."""
    with contextlib.suppress(OSError):  # it is there already, or SQLite will say what is wrong
        # Nobody else's to read; SQLite gives its companion files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    conn = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only counts for a new file: deleted rows give their pages back
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = NORMAL")  # survives the death of the process; a power cut may cost the tail
    conn.execute("PRAGMA temp_store = MEMORY")
    return conn


@contextlib.contextmanager
def writing(conn: sqlite3.Connection) -> Iterator[None]:
    """One transaction that may write, on a connection in autocommit mode; whatever is raised in it undoes it."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def migrate(conn: sqlite3.Connection) -> None:
    """Bring ``conn`` (autocommit mode) to ``VERSION``; several workers may call it at once.

    Raises LedgerVersionError for a newer file, sqlite3.Error when the file cannot be written.
    """
    if _applied(conn) == VERSION:
        return
    with writing(conn):
        conn.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT, applied_at REAL)")
        for number in range(_applied(conn) + 1, VERSION + 1):
            step = MIGRATIONS[number - 1]
            step(conn)
            conn.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, step.__name__, time.time()))


def check_version(conn: sqlite3.Connection) -> None:
    """Raise LedgerVersionError when the file is newer than this code."""
    _applied(conn)


def _applied(conn: sqlite3.Connection) -> int:
    try:
        row = conn.execute("SELECT COALESCE(MAX(number), 0) FROM migrations").fetchone()
    except sqlite3.OperationalError:  # no such table: a new file
        return 0
    applied = int(row[0])
    if applied > VERSION:
        raise LedgerVersionError(f"the ledger has schema {applied}, this lmstack knows {VERSION}: upgrade lmstack")
    return applied
