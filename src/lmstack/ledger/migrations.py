"""The ledger's schema: one numbered migration for each change. Each migration runs in one transaction.

Times are Unix seconds (UTC, REAL). Durations are milliseconds (REAL). Costs are US dollars (REAL); NULL means unknown.
"""

import sqlite3
from collections.abc import Callable

from lmstack.ledger.migration_alerts import _m011_alerts
from lmstack.ledger.migration_keys import _m008_keys, _m010_key_use_and_demands, _m012_stored_owners


def _m001_requests_attempts_outbox(conn: sqlite3.Connection) -> None:
    """Create the first ledger: requests, attempts, and the events that TaskMaster must still get."""
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
    # A worker without heartbeat cannot end its rows any more. Another worker finds and ends them.
    conn.execute("CREATE TABLE workers (id TEXT PRIMARY KEY, started_at REAL NOT NULL, beat_at REAL NOT NULL)")


def _m002_rollups_and_estimates(conn: sqlite3.Connection) -> None:
    """Add sums per hour: usage over millions of rows must answer quickly, and outlive the rows. Add estimates."""
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
    for dimension, expression in _FIRST_DIMENSIONS.items():
        conn.execute(
            f"INSERT INTO rollups SELECT ?, {expression}, CAST(started_at AS INTEGER) / 3600, COUNT(*), "  # noqa: S608 - literals
            "SUM(status != 'succeeded'), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), "
            "COALESCE(SUM(cost_usd), 0.0), SUM(status = 'succeeded' AND cost_usd IS NULL) "
            "FROM requests WHERE status != 'started' GROUP BY 2, 3",
            (dimension,),
        )
    # Housekeeping finds old delivered events without reading the open ones.
    conn.execute("CREATE INDEX outbox_delivered ON outbox (delivered_at) WHERE state = 'delivered'")


def _m003_lanes(conn: sqlite3.Connection) -> None:
    """Keep due time and lease per task, not per event, because the events of a task go one after the other.
    The next event must be found quickly, also when one task has a backlog of thousands."""
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
    """Add reservations: an open request reserves its estimated cost, so that budgets hold over several workers."""
    conn.execute("ALTER TABLE requests ADD COLUMN reserved_usd REAL")  # counts only while the request is open


def _m005_refusals(conn: sqlite3.Connection) -> None:
    """Count requests without a valid key in place of a row for each: anybody on the network can send such requests."""
    conn.execute(
        """
        CREATE TABLE refusals (              -- requests that were refused before LiteLLM saw them; kept for a day
            minute INTEGER NOT NULL,         -- Unix minutes
            reason TEXT NOT NULL,
            count INTEGER NOT NULL,
            PRIMARY KEY (minute, reason)
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        """
        CREATE TABLE last_refusals (         -- the last hundred of them
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            address TEXT NOT NULL,           -- of the client
            path TEXT NOT NULL,              -- cut to 200 characters
            reason TEXT NOT NULL
        )
        """
    )


def _m006_refused_first(conn: sqlite3.Connection) -> None:
    """Find refused requests without reading the others: they are deleted first when the ledger is too large."""
    conn.execute("CREATE INDEX requests_rejected ON requests (started_at) WHERE status = 'rejected'")


def _m007_client_keys(conn: sqlite3.Connection) -> None:
    """Recognize a client's retry of a request that a killed worker had in hand."""
    conn.execute("ALTER TABLE requests ADD COLUMN client_key TEXT")
    conn.execute("CREATE INDEX requests_client_key ON requests (client_key) WHERE client_key IS NOT NULL")


def _m009_one_release_per_retry(conn: sqlite3.Connection) -> None:
    """Let a retry name the one request that it repeats, and find both without reading all requests of a client key."""
    conn.execute("ALTER TABLE requests ADD COLUMN retry_of TEXT")  # the id of an interrupted request
    conn.execute("DROP INDEX requests_client_key")
    same = "(client_key, endpoint, requested_model, task_id, agent_id, key_alias, started_at)"
    conn.execute(
        f"CREATE INDEX requests_client_key ON requests {same} "
        "WHERE client_key IS NOT NULL AND status != 'rejected' AND retry_of IS NULL"
    )
    conn.execute(
        f"CREATE INDEX requests_interrupted ON requests {same} "
        "WHERE status = 'interrupted' AND error_type = 'Interrupted' AND cost_usd > 0"
    )


_FIRST_DIMENSIONS = {
    "task": "COALESCE(task_id, '(none)')",
    "agent": "COALESCE(agent_id, '(none)')",
    "model": "COALESCE(deployment, requested_model, '(none)')",
    "provider": "COALESCE(provider, '(none)')",
    "tier": "COALESCE(CAST(tier AS TEXT), '(none)')",
    "user": "COALESCE(user, '(none)')",
}
# The groupings of usage. Each SQL expression gives the name that the writer uses in the rollups.
DIMENSIONS = {
    **_FIRST_DIMENSIONS,
    "key": "COALESCE(key_alias, '(none)')",
    "team": "COALESCE(team, '(none)')",
}

MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _m001_requests_attempts_outbox,
    _m002_rollups_and_estimates,
    _m003_lanes,
    _m004_reservations,
    _m005_refusals,
    _m006_refused_first,
    _m007_client_keys,
    _m008_keys,
    _m009_one_release_per_retry,
    _m010_key_use_and_demands,
    _m011_alerts,
    _m012_stored_owners,
)
VERSION = len(MIGRATIONS)
