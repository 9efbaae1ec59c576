"""The migration that adds alerts: which ones fire, what each target got last, and a target for each event."""

import sqlite3


def _m011_alerts(conn: sqlite3.Connection) -> None:
    """Add alerts. Give each event and each lane a target, so that a dead webhook holds up no event for TaskMaster."""
    conn.execute(
        "ALTER TABLE outbox ADD COLUMN target TEXT NOT NULL DEFAULT ''"
    )  # '': TaskMaster; else a name of models.yaml
    conn.execute("ALTER TABLE lanes ADD COLUMN target TEXT NOT NULL DEFAULT ''")
    conn.execute("DROP INDEX lanes_due")
    conn.execute("CREATE INDEX lanes_due ON lanes (target, due_at)")
    conn.execute("CREATE INDEX outbox_dead ON outbox (seq) WHERE state = 'dead'")
    conn.execute(
        """
        CREATE TABLE alerts (                -- one row for each alert that has fired; ended ones are kept for 90 days
            key TEXT PRIMARY KEY,            -- the rule and what it is about; with the period for a budget
            rule TEXT NOT NULL,
            subject TEXT NOT NULL,           -- a provider, a model, a budget
            text TEXT NOT NULL,              -- the sentence that was sent
            value REAL,                      -- what was measured, and from where on it counts
            threshold REAL,
            since REAL NOT NULL,
            ended_at REAL                    -- NULL while it fires
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        """
        CREATE TABLE alert_sends (           -- the last alert of each target
            target TEXT PRIMARY KEY,
            event_id TEXT NOT NULL,          -- of the outbox, where delivered events are kept for a day
            text TEXT NOT NULL,
            queued_at REAL NOT NULL
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        """
        CREATE TABLE known_prices (          -- the prices at the last check, to notice a change
            model TEXT PRIMARY KEY,
            input REAL NOT NULL,             -- US dollars per million tokens
            output REAL NOT NULL
        ) WITHOUT ROWID
        """
    )
    # The worker that moves this time on checks the rules.
    conn.execute("CREATE TABLE alert_turn (next_at REAL NOT NULL)")
    conn.execute("INSERT INTO alert_turn VALUES (0)")
