"""The migrations that add keys to the ledger: the keys, who changed them, what each of them spends, and what it has stored."""

import sqlite3


def _m008_keys(conn: sqlite3.Connection) -> None:
    """Add keys with their limits, the audit of their changes, and sums for keys and teams. Secrets are stored as hashes only."""
    conn.execute(
        """
        CREATE TABLE keys (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            limits TEXT NOT NULL,            -- JSON: agent, team, models, tiers, routes, tasks, budgets, rpm, tpm, parallel, ...
            declared INTEGER NOT NULL DEFAULT 0, -- models.yaml states the limits
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            version INTEGER NOT NULL         -- the version of all keys at the last change of this one
        )
        """
    )
    conn.execute("CREATE INDEX keys_by_version ON keys (version)")
    conn.execute(
        """
        CREATE TABLE key_secrets (
            hash TEXT PRIMARY KEY,           -- SHA-256 of a secret of 256 random bits
            key_id INTEGER NOT NULL REFERENCES keys (id),
            made_at REAL NOT NULL,
            valid_until REAL                 -- set when the key is rotated
        ) WITHOUT ROWID
        """
    )
    conn.execute("CREATE INDEX key_secrets_by_key ON key_secrets (key_id)")
    # Every worker reads this one row several times in a second, and the keys only when it has changed.
    conn.execute("CREATE TABLE key_version (version INTEGER NOT NULL)")
    conn.execute("INSERT INTO key_version VALUES (0)")
    conn.execute(
        """
        CREATE TABLE key_audit (             -- kept as long as the ledger
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            actor TEXT NOT NULL,             -- who did it: USER@HOST, page:SESSION, or models.yaml
            action TEXT NOT NULL,            -- create, edit, revoke, rotate
            key TEXT NOT NULL,
            detail TEXT NOT NULL             -- JSON: the limits before and after, never a secret
        )
        """
    )
    _add_spending(conn)


def _m010_key_use_and_demands(conn: sqlite3.Connection) -> None:
    """Add when each key made its last request, and what a request demanded of routing. Of former requests, the hour is known."""
    conn.execute("ALTER TABLE requests ADD COLUMN asked TEXT")  # JSON: tier, max_cost, no_fallback, budgets
    conn.execute("ALTER TABLE keys ADD COLUMN used_at REAL")  # start of the last request that has ended
    conn.execute(
        "UPDATE keys SET used_at = MAX(found.at, keys.created_at) FROM "
        "(SELECT name, MAX(hour) * 3600.0 AS at, (MAX(hour) + 1) * 3600.0 AS until FROM rollups WHERE dimension = 'key' GROUP BY name) AS found "
        "WHERE found.name = keys.name AND found.until > keys.created_at"
    )


def _add_spending(conn: sqlite3.Connection) -> None:
    """Add what budgets of keys and teams need: columns, totals, sums, and the spending of a period."""
    conn.execute("ALTER TABLE requests ADD COLUMN team TEXT")
    conn.execute("ALTER TABLE totals RENAME TO totals_before")
    conn.execute(
        """
        CREATE TABLE totals (                -- running cost per task, agent, team and key, so that a cost event needs no scan
            kind TEXT NOT NULL CHECK (kind IN ('task','agent','team','key')),
            id TEXT NOT NULL,
            cost_usd REAL NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (kind, id)
        ) WITHOUT ROWID
        """
    )
    conn.execute("INSERT INTO totals SELECT * FROM totals_before")
    conn.execute("DROP TABLE totals_before")
    for dimension in ("key", "team"):  # each request is in exactly one tier
        conn.execute(
            "INSERT INTO rollups SELECT ?, '(none)', hour, SUM(requests), SUM(failures), SUM(prompt_tokens), "
            "SUM(completion_tokens), SUM(cost_usd), SUM(unpriced) FROM rollups WHERE dimension = 'tier' GROUP BY hour",
            (dimension,),
        )
    conn.execute(
        """
        CREATE TABLE spent (                 -- what a budget of a day, week or month has spent; made at its first check
            kind TEXT NOT NULL,              -- all, task, agent, team, key
            name TEXT NOT NULL,
            period TEXT NOT NULL,
            began INTEGER NOT NULL,          -- Unix seconds
            ended INTEGER NOT NULL,
            cost_usd REAL NOT NULL,
            PRIMARY KEY (kind, name, period, began)
        ) WITHOUT ROWID
        """
    )
    conn.execute(
        """
        CREATE TABLE warnings (              -- soft limits that were reached: each is reported once in its period
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            period TEXT NOT NULL,
            began INTEGER NOT NULL,          -- Unix seconds; 0 for a total
            limit_usd REAL NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (kind, name, period, began, limit_usd)
        ) WITHOUT ROWID
        """
    )


def _m012_stored_owners(conn: sqlite3.Connection) -> None:
    """Remember which key has made a file or batch."""
    conn.execute(
        """
        CREATE TABLE stored_owners (
            id TEXT PRIMARY KEY,             -- the provider's own id of a file or batch
            owner TEXT NOT NULL              -- the shared name of the key, which a later key of the same name has not
        ) WITHOUT ROWID
        """
    )
