"""Keys in the ledger: make, change, revoke, rotate them, each change with its audit in one transaction. Holds no secret.

Functions with SQL on a connection that the caller owns. Each change gives the key the next version, so that every worker
reads only what has changed.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lmstack.keys.key import AGENT, Key, limits_from
from lmstack.keys.parse import changed
from lmstack.keys.secret import shared_name
from lmstack.ledger.schema import check_version, writing

KEEP_SECRETS_SECONDS = 30 * 86400.0  # of rotated secrets, so that the refusal names the reason
_COLUMNS = "id, name, limits, created_at, expires_at, revoked_at"
_USED_SINCE = 10  # the schema that notes when a key was used
Row = dict[str, Any]


class KeyChangeError(Exception):
    """A change that cannot be made: the key is missing, exists already, or is revoked."""


def load(conn: sqlite3.Connection, after: int) -> tuple[int, list[tuple[Key, Mapping[str, float | None]]]]:
    """Return the present version, and each key that changed after version ``after`` with its hashes.

    The value of a hash is the time until which it is valid (Unix seconds); None: as long as the key.
    """
    version = current_version(conn)
    rows = conn.execute(f"SELECT {_COLUMNS} FROM keys WHERE version > ?", (after,)).fetchall()  # noqa: S608 - literals
    hashes: dict[int, dict[str, float | None]] = {}  # of each key, its first secret first
    sql = "SELECT key_id, hash, valid_until FROM key_secrets WHERE key_id IN (SELECT id FROM keys WHERE version > ?) ORDER BY made_at, hash"
    for id_, hash_, until in conn.execute(sql, (after,)):
        hashes.setdefault(id_, {})[hash_] = until
    return version, [(key_from(row, hashes.get(row[0], {})), hashes.get(row[0], {})) for row in rows]


def current_version(conn: sqlite3.Connection) -> int:
    """Return the version of all keys, 0 while there are none. Raises sqlite3.OperationalError without the table."""
    return int(conn.execute("SELECT version FROM key_version").fetchone()[0])


def key_from(row: Any, hashes: Iterable[str] = ()) -> Key:
    """Return the key in a row of _COLUMNS. ``hashes``: of its secrets, the first one first."""
    id_, name, limits, created, expires, revoked = tuple(row)
    first = next(iter(hashes), "")
    return Key(
        id_, name, limits_from(json.loads(limits)), created, expires, revoked, shared_name(first) if first else ""
    )


def change(conn: sqlite3.Connection, action: str, actor: str, now: float, name: str, **values: Any) -> list[Row]:
    """Make one change of a key and return its row. Raises KeyChangeError, and changes nothing then."""
    with writing(conn):
        version = current_version(conn) + 1
        before = _row(conn, name)
        after, detail = _ACTIONS[action](conn, before, name, now, values)
        conn.execute("UPDATE key_version SET version = ?", (version,))
        conn.execute("UPDATE keys SET version = ? WHERE name = ?", (version, name))
        conn.execute(
            "INSERT INTO key_audit (at, actor, action, key, detail) VALUES (?,?,?,?,?)",
            (now, actor, action, name, json.dumps(detail)),
        )
    return [after]


def rows(conn: sqlite3.Connection, name: str | None = None) -> list[Row]:
    """Return the keys with their limits, by name; one of them when ``name`` is given."""
    where, args = (" WHERE name = ?", (name,)) if name else ("", ())
    used = "used_at" if check_version(conn) >= _USED_SINCE else "NULL"
    sql = f"SELECT {_COLUMNS}, declared, (SELECT COUNT(*) FROM key_secrets WHERE key_id = keys.id), {used} FROM keys{where} ORDER BY name"  # noqa: S608 - literals
    return [_as_row(row) for row in conn.execute(sql, args).fetchall()]


def audit(conn: sqlite3.Connection, since: float = 0.0, name: str | None = None, limit: int = 50) -> list[Row]:
    """Return the changes of keys, the newest first."""
    where, args = (" AND key = ?", [name]) if name else ("", [])
    sql = f"SELECT at, actor, action, key, detail FROM key_audit WHERE at >= ?{where} ORDER BY number DESC LIMIT ?"  # noqa: S608 - literals
    found = conn.execute(sql, [since, *args, limit]).fetchall()
    return [
        {"at": at, "actor": actor, "action": action, "key": key, "detail": json.loads(detail)}
        for at, actor, action, key, detail in (tuple(row) for row in found)
    ]


def named_by(conn: sqlite3.Connection, hash_: str, now: float) -> str | None:
    """Return the name of the key that has this hash, also of a revoked one; None for an unknown or a rotated secret."""
    sql = "SELECT name FROM keys JOIN key_secrets ON key_id = id WHERE hash = ? AND (valid_until IS NULL OR valid_until > ?)"
    found = conn.execute(sql, (hash_, now)).fetchone()
    return None if found is None else str(found[0])


def valid(conn: sqlite3.Connection, begins: str, now: float, id_: int | None = None) -> Key | None:
    """Return the key with a hash that begins so, when it may be used now; None for an unknown, rotated, revoked or expired one.

    Without the ``id_`` of a key, ``begins`` is the whole hash.
    """
    sql = (
        f"SELECT {_COLUMNS} FROM keys JOIN key_secrets ON key_id = id "  # noqa: S608 - literals
        "WHERE hash >= ?1 AND hash < ?2 AND (valid_until IS NULL OR valid_until > ?3) AND (?4 IS NULL OR id = ?4)"
    )
    row = conn.execute(sql, (begins, f"{begins}g", now, id_)).fetchone()
    key = None if row is None else key_from(row)
    return None if key is None or key.objection(now) else key


def note_use(conn: sqlite3.Connection, name: str | None, at: float) -> None:
    """Note when a key made a request, inside the caller's transaction. Workers do not read the key again for that."""
    if name is not None:
        conn.execute("UPDATE keys SET used_at = MAX(COALESCE(used_at, 0), ?) WHERE name = ?", (at, name))


Change = tuple[Row, Row]  # the row afterwards, and the detail for the audit


def _create(conn: sqlite3.Connection, before: Row | None, name: str, now: float, values: Mapping[str, Any]) -> Change:
    """Make a key. The name of a revoked key may be used again: what it has spent stays with the name."""
    if before is not None and before["revoked_at"] is None:
        raise KeyChangeError(f"there is a key '{name}' already")
    limits = _limits({}, values["limits"])
    conn.execute(
        "INSERT INTO keys (name, limits, declared, created_at, expires_at, version) VALUES (?,?,?,?,?,0) "
        "ON CONFLICT (name) DO UPDATE SET limits = excluded.limits, declared = excluded.declared, "
        "created_at = excluded.created_at, expires_at = excluded.expires_at, revoked_at = NULL, used_at = NULL",
        (name, json.dumps(limits), bool(values.get("declared")), now, values.get("expires_at")),
    )
    row = _required(conn, name)
    conn.execute("DELETE FROM key_secrets WHERE key_id = ?", (row["id"],))
    _add_secret(conn, row["id"], values["hash"], now)
    return row, {"limits": limits, "expires_at": values.get("expires_at")}


def _edit(conn: sqlite3.Connection, before: Row | None, name: str, now: float, values: Mapping[str, Any]) -> Change:
    """Change limits, or the end, of a key. What is not named stays; a limit of None is taken away."""
    old = _active(before, name)
    limits = _limits(old["limits"], values.get("limits") or {})
    expires = values.get("expires_at", old["expires_at"])
    declared = bool(values.get("declared", old["declared"]))
    sql = "UPDATE keys SET limits = ?, expires_at = ?, declared = ? WHERE name = ?"
    conn.execute(sql, (json.dumps(limits), expires, declared, name))
    detail = {"before": old["limits"], "after": limits}
    if expires != old["expires_at"]:
        detail |= {"expires_at": expires}
    return _required(conn, name), detail


def _revoke(conn: sqlite3.Connection, before: Row | None, name: str, now: float, values: Mapping[str, Any]) -> Change:
    _active(before, name)
    conn.execute("UPDATE keys SET revoked_at = ? WHERE name = ?", (now, name))
    return _required(conn, name), {}


def _rotate(conn: sqlite3.Connection, before: Row | None, name: str, now: float, values: Mapping[str, Any]) -> Change:
    """Add a secret. The secrets before it are valid until ``keep_until``. The first one is kept: it names the key in Redis.

    Without ``keep_until`` the others are deleted: a clock that is set back must not make them valid again.
    """
    old = _active(before, name)
    keep_until = float(values.get("keep_until") or 0.0)
    sql = "UPDATE key_secrets SET valid_until = MIN(COALESCE(valid_until, ?1), ?1) WHERE key_id = ?2"
    conn.execute(sql, (keep_until, old["id"]))
    sql = (
        "DELETE FROM key_secrets WHERE key_id = ?1 AND valid_until < ?2 "
        "AND hash != (SELECT hash FROM key_secrets WHERE key_id = ?1 ORDER BY made_at, hash LIMIT 1)"
    )
    conn.execute(sql, (old["id"], now - KEEP_SECRETS_SECONDS))
    _add_secret(conn, old["id"], values["hash"], now)
    return _required(conn, name), {"old_valid_until": keep_until or now}


_ACTIONS: dict[str, Callable[..., Change]] = {"create": _create, "edit": _edit, "revoke": _revoke, "rotate": _rotate}


def _add_secret(conn: sqlite3.Connection, key_id: int, hash_: str, now: float) -> None:
    conn.execute("INSERT INTO key_secrets (hash, key_id, made_at) VALUES (?,?,?)", (hash_, key_id, now))


def _active(row: Row | None, name: str) -> Row:
    if row is None:
        raise KeyChangeError(f"there is no key '{name}'")
    if row["revoked_at"] is not None:
        raise KeyChangeError(f"the key '{name}' is revoked")
    return row


def _limits(old: Mapping[str, Any], new: Mapping[str, Any]) -> Row:
    try:
        return changed(old, new).as_json()
    except ValueError as error:
        raise KeyChangeError(str(error)) from None


def _row(conn: sqlite3.Connection, name: str) -> Row | None:
    found = rows(conn, name)
    return found[0] if found else None


def _required(conn: sqlite3.Connection, name: str) -> Row:
    return rows(conn, name)[0]


def _as_row(found: Any) -> Row:
    id_, name, text, created, expires, revoked, declared, secrets, used = tuple(found)
    limits = json.loads(text)
    return {
        "id": id_, "name": name, "role": limits.get("role", AGENT), "limits": limits, "created_at": created, "expires_at": expires,
        "revoked_at": revoked, "declared": bool(declared), "secrets": secrets, "last_used_at": used,
    }  # fmt: skip
