"""Keys in the ledger: changes with their audit, what a worker reads, and budgets of keys and teams."""

import contextlib
import json
import random
import sqlite3
import time
from pathlib import Path

import pytest

from documented import check_schema
from ledger_records import call, ended
from lmstack.keys.key import KeyLimits
from lmstack.keys.secret import digest, new_secret
from lmstack.ledger import apply, keys, migrations, queries, schema, spending
from lmstack.ledger.key_queries import key_rows
from lmstack.ledger.keys import KeyChangeError
from lmstack.ledger.records import Attribution, Started
from lmstack.routing.budgets import PERIODS, Limit, period_of

NOW = 1_800_000_000.0


def make(conn: sqlite3.Connection, name: str = "coder", **limits: object) -> str:
    secret = new_secret()
    keys.change(conn, "create", "me", NOW, name, limits=limits, hash=digest(secret))
    return secret


def test_a_new_key_is_read_by_its_hash_and_the_secret_is_nowhere_in_the_file(
    conn: sqlite3.Connection, ledger: Path
) -> None:
    secret = make(conn, rpm=5)
    version, [(key, hashes)] = keys.load(conn, 0)
    assert (version, key.name, key.limits, hashes) == (1, "coder", KeyLimits(rpm=5), {digest(secret): None})
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert secret.encode() not in ledger.read_bytes()


def test_a_worker_reads_only_what_has_changed(conn: sqlite3.Connection) -> None:
    make(conn, "a")
    make(conn, "b")
    assert [key.name for key, _ in keys.load(conn, 1)[1]] == ["b"]
    keys.change(conn, "revoke", "me", NOW, "a")
    version, [(key, _)] = keys.load(conn, 2)
    assert (version, key.name, key.revoked_at) == (3, "a", NOW)


def test_a_rotation_keeps_the_old_secret_for_a_while(conn: sqlite3.Connection) -> None:
    first, second, third = make(conn), new_secret(), new_secret()
    keys.change(conn, "rotate", "me", NOW, "coder", hash=digest(second), keep_until=NOW + 60)
    assert keys.load(conn, 0)[1][0][1] == {digest(first): NOW + 60, digest(second): None}
    keys.change(conn, "rotate", "me", NOW + 1, "coder", hash=digest(third), keep_until=NOW + 3600)
    found = keys.load(conn, 0)[1][0][1]
    assert found == {digest(first): NOW + 60, digest(second): NOW + 3600, digest(third): None}


def test_a_rotated_secret_stays_invalid_when_the_clock_is_set_back(conn: sqlite3.Connection) -> None:
    first = make(conn)
    keys.change(conn, "rotate", "me", NOW, "coder", hash=digest(new_secret()))
    assert keys.load(conn, 0)[1][0][1][digest(first)] == 0.0
    assert keys.valid(conn, digest(first), NOW - 3600) is None
    assert keys.audit(conn)[0]["detail"] == {"old_valid_until": NOW}


def test_a_rotated_secret_names_no_key(conn: sqlite3.Connection) -> None:
    """`lm run --key` would start a client with it, and the gateway would refuse each of its calls."""
    first, second = make(conn), new_secret()
    keys.change(conn, "rotate", "me", NOW, "coder", hash=digest(second), keep_until=NOW + 60)
    assert [keys.named_by(conn, digest(first), NOW + later) for later in (0, 61)] == ["coder", None]
    assert keys.named_by(conn, digest(second), NOW + 61) == "coder"


@pytest.mark.parametrize("action", ["edit", "revoke", "rotate"])
def test_a_missing_and_a_revoked_key_are_not_changed(conn: sqlite3.Connection, action: str) -> None:
    with pytest.raises(KeyChangeError, match="no key"):
        keys.change(conn, action, "me", NOW, "coder", hash="h")
    make(conn)
    keys.change(conn, "revoke", "me", NOW, "coder")
    with pytest.raises(KeyChangeError, match="revoked"):
        keys.change(conn, action, "me", NOW, "coder", hash="h")
    assert [row["action"] for row in keys.audit(conn)] == ["revoke", "create"]
    assert keys.current_version(conn) == 2


def test_a_revoked_name_can_be_used_again_and_the_old_secret_stays_invalid(conn: sqlite3.Connection) -> None:
    old = make(conn, rpm=1)
    with pytest.raises(KeyChangeError, match="already"):
        make(conn)
    keys.change(conn, "revoke", "me", NOW, "coder")
    new = make(conn, tpm=2)
    key, hashes = keys.load(conn, 0)[1][0]
    assert (key.limits, key.revoked_at, set(hashes)) == (KeyLimits(tpm=2), None, {digest(new)})
    assert digest(old) not in hashes


def test_the_audit_has_the_limits_before_and_after(conn: sqlite3.Connection) -> None:
    make(conn, rpm=1)
    keys.change(conn, "edit", "you", NOW + 1, "coder", limits={"rpm": None, "tpm": 5})
    newest = keys.audit(conn)[0]
    assert (newest["actor"], newest["action"], newest["key"]) == ("you", "edit", "coder")
    assert newest["detail"] == {"before": {"rpm": 1}, "after": {"tpm": 5}}


def test_a_ledger_of_an_earlier_version_gets_keys_and_sums_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "litellm.db"
    monkeypatch.setattr(schema, "MIGRATIONS", migrations.MIGRATIONS[:7])
    monkeypatch.setattr(schema, "VERSION", 7)
    with contextlib.closing(schema.connect(path)) as old:
        schema.migrate(old)
        old.execute("INSERT INTO rollups VALUES ('tier','1',100,3,1,10,20,0.5,1),('tier','2',100,1,0,1,2,0.25,0)")
        old.execute("INSERT INTO totals VALUES ('task','t',0.75,4)")
    with pytest.raises(KeyChangeError, match="older"):
        queries.ask(path, "key_change", {"action": "create", "actor": "me", "name": "a", "limits": {}, "hash": "h"})
    assert queries.ask(path, "keys", {}) == []
    monkeypatch.undo()
    with contextlib.closing(schema.connect(path)) as new:
        schema.migrate(new)
        sums = new.execute("SELECT name, requests, cost_usd FROM rollups WHERE dimension = 'key'").fetchall()
        assert [tuple(row) for row in sums] == [("(none)", 4, 0.75)]
        assert tuple(new.execute("SELECT * FROM totals").fetchone()) == ("task", "t", 0.75, 4)


def test_a_ledger_of_schema_9_gets_the_last_use_of_its_keys_and_knows_no_roles_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hour = tmp_path / "litellm.db", int(NOW) // 3600
    monkeypatch.setattr(schema, "MIGRATIONS", migrations.MIGRATIONS[:9])
    monkeypatch.setattr(schema, "VERSION", 9)
    insert = "INSERT INTO keys (name, limits, created_at, version) VALUES (?, '{}', ?, 1)"
    with contextlib.closing(schema.connect(path)) as old:
        schema.migrate(old)
        old.executemany(insert, [("used", NOW - 86400), ("new", NOW - 60), ("unused", NOW - 86400), ("reused", NOW)])
        old.executemany(
            "INSERT INTO rollups VALUES ('key',?,?,1,0,0,0,0.0,0)",
            [("used", hour - 5), ("used", hour - 2), ("new", hour), ("reused", hour - 9), ("(none)", hour)],
        )
    assert {row["last_used_at"] for row in queries.ask(path, "keys", {})} == {None}
    for action, values in (
        ("create", {"limits": {"role": "viewer"}, "hash": "h"}),
        ("edit", {"limits": {"role": "viewer"}}),
    ):
        with pytest.raises(KeyChangeError, match="older"):
            queries.ask(path, "key_change", {"action": action, "actor": "me", "name": "used", **values})
    queries.ask(path, "key_change", {"action": "revoke", "actor": "me", "name": "unused"})
    monkeypatch.undo()
    with contextlib.closing(schema.connect(path)) as new:
        schema.migrate(new)
        found = {row["name"]: row["last_used_at"] for row in keys.rows(new)}
    assert found == {"used": (hour - 2) * 3600.0, "new": max(NOW - 60, hour * 3600.0), "unused": None, "reused": None}


def test_the_last_use_is_that_of_the_key_and_not_of_its_name(conn: sqlite3.Connection) -> None:
    make(conn, "k")
    version = keys.current_version(conn)
    run(conn, "1", 0.0, age=50.0)
    run(conn, "2", 0.0, age=500.0)
    assert keys.rows(conn, "k")[0]["last_used_at"] == pytest.approx(time.time() - 50, abs=5)
    assert keys.current_version(conn) == version  # no worker reads the key again
    keys.change(conn, "revoke", "me", NOW, "k")
    make(conn, "k")
    assert keys.rows(conn, "k")[0]["last_used_at"] is None


def test_a_viewer_has_no_limits(conn: sqlite3.Connection) -> None:
    make(conn, "boss", role="viewer")
    [row] = keys.rows(conn, "boss")
    assert (row["role"], row["limits"]) == ("viewer", {"role": "viewer"})
    for limits in ({"rpm": 5}, {"budgets": {"day": 1.0}}):
        with pytest.raises(KeyChangeError, match="a viewer calls nothing"):
            keys.change(conn, "edit", "me", NOW, "boss", limits=limits)
    keys.change(conn, "edit", "me", NOW, "boss", limits={"role": None, "rpm": 5})
    assert keys.rows(conn, "boss")[0]["role"] == "agent"


def test_only_the_valid_secret_of_a_key_finds_it(conn: sqlite3.Connection) -> None:
    old, now = make(conn, "boss", role="viewer"), time.time()
    hash_ = digest(old)
    for begins, id_ in ((hash_, None), (hash_[:16], 1)):
        found = keys.valid(conn, begins, now, id_)
        assert found is not None
        assert found.limits.is_viewer
    for begins, id_ in ((hash_[:16], 2), (digest("x"), None), (digest("x")[:16], 1)):
        assert keys.valid(conn, begins, now, id_) is None
    keys.change(conn, "rotate", "me", now, "boss", hash=digest(new_secret()), keep_until=now + 60)
    assert keys.valid(conn, hash_, now + 59) is not None
    assert keys.valid(conn, hash_, now + 61) is None


def run(conn: sqlite3.Connection, id_: str, cost: float, limits: tuple[Limit, ...] = (), age: float = 0.0) -> bool:
    """Start and end a request of key k in team t. Return whether it was admitted."""
    one = call(id_, age=age)
    one.attribution = Attribution("task", "agent", None, "k", "t")
    one.limited, one.limits = tuple(limit.scope for limit in limits), limits
    [verdict] = apply.transaction(conn, [Started(one, limits)], "w", False)
    if verdict.durable:
        apply.transaction(conn, [ended(one, cost)], "w", False)
    return verdict.durable


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize(
    ("scope", "name"), [("key", "k"), ("team", "t"), ("agent", "agent"), ("task", "task"), ("all", "")]
)
def test_a_budget_admits_until_it_is_used_up(conn: sqlite3.Connection, scope: str, name: str, period: str) -> None:
    limit = Limit(scope, name, period, 1.0)
    run(conn, "before", 0.25)  # spent before anybody asked for the budget
    assert [run(conn, str(number), 0.25, (limit,)) for number in range(5)] == [True, True, True, False, False]
    assert spending.spent(conn, limit, time.time()) == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_only_the_last_admitted_request_passes_a_budget_and_by_less_than_its_cost(
    conn: sqlite3.Connection, seed: int
) -> None:
    """Requests start and end in any order, several are open at a time, and none costs more than it has reserved."""
    dice, limit, waiting, costs = random.Random(seed), Limit("key", "k", "day", 1.0), [], []  # noqa: S311
    for number in range(60):
        one = call(str(number))
        one.attribution, one.reserved_usd = Attribution("task", "agent", None, "k", "t"), dice.choice((0.01, 0.1, 0.4))
        one.limited, one.limits = ("key",), (limit,)
        [verdict] = apply.transaction(conn, [Started(one, (limit,))], "w", False)
        if verdict.durable:
            waiting.append((one, one.reserved_usd * dice.choice((0.0, 0.5, 1.0))))
            costs.append(waiting[-1][1])
        while waiting and dice.random() < 0.5:
            apply.transaction(conn, [ended(*waiting.pop(dice.randrange(len(waiting))))], "w", False)
    apply.transaction(conn, [ended(*one) for one in waiting], "w", False)
    assert sum(costs[:-1]) < 1.0
    assert spending.spent(conn, limit, time.time()) == pytest.approx(sum(costs))


def test_what_a_request_costs_beyond_its_reservation_passes_a_budget_too(conn: sqlite3.Connection) -> None:
    """It is not known before. So the bound is the last request, and what the others cost more than they have reserved."""
    limit, admitted = Limit("key", "k", "day", 1.0), []
    for number in range(20):
        one = call(str(number))
        one.attribution, one.reserved_usd = Attribution("task", "agent", None, "k", "t"), 0.3
        one.limited, one.limits = ("key",), (limit,)
        if apply.transaction(conn, [Started(one, (limit,))], "w", False)[0].durable:
            admitted.append(one)
    assert len(admitted) == 4
    apply.transaction(conn, [ended(one, 0.5) for one in admitted], "w", False)
    assert spending.spent(conn, limit, time.time()) == pytest.approx(2.0)  # 0.9 was reserved when the last one came
    assert not run(conn, "late", 0.1, (limit,))


def test_a_budget_of_a_period_forgets_the_period_before(conn: sqlite3.Connection) -> None:
    now = time.time()
    for period in ("hour", "day", "week", "month"):
        age = now - period_of(period, now)[0] + 1.0
        run(conn, f"old-{period}", 5.0, age=age)
        assert spending.spent(conn, Limit("key", "k", period, 1.0), now) < 5.0 * 4, period
    before = spending.spent(conn, Limit("key", "k", "month", 1.0), now)
    limit = Limit("key", "k", "month", before + 1.0)
    assert run(conn, "now", 2.0, (limit,))
    assert not run(conn, "late", 2.0, (limit,))
    assert spending.used(conn, limit, now) == spending.spent(conn, limit, now) == before + 2.0


def test_the_remembered_spending_equals_the_sums_after_any_order(conn: sqlite3.Connection) -> None:
    limits = tuple(Limit("key", "k", period, 1000.0) for period in ("day", "week", "month"))
    for number in range(30):
        run(conn, str(number), 0.1 * number, limits, age=3000.0 * number)
    for limit in limits:
        assert spending.used(conn, limit, time.time()) == pytest.approx(spending.spent(conn, limit, time.time()))


def test_usage_by_key_and_team(conn: sqlite3.Connection, ledger: Path) -> None:
    run(conn, "1", 0.5)
    for by, name in (("key", "k"), ("team", "t")):
        [row] = queries.ask(ledger, "usage", {"by": by})
        assert (row["name"], row["requests"], row["cost_usd"]) == (name, 1, 0.5)


def test_a_backup_carries_the_keys(conn: sqlite3.Connection, ledger: Path, tmp_path: Path) -> None:
    from lmstack.ledger import backup

    make(conn, rpm=3)
    saved = tmp_path / "saved.tar"
    with saved.open("wb") as target:
        backup.save(ledger, target)
    other = tmp_path / "other" / "litellm.db"
    with saved.open("rb") as source:
        backup.load(other, source)
    [row] = queries.ask(other, "keys", {})
    assert (row["name"], row["limits"], row["secrets"]) == ("coder", {"rpm": 3}, 1)
    assert json.dumps(queries.ask(other, "key_audit", {})) == json.dumps(queries.ask(ledger, "key_audit", {}))


@pytest.mark.parametrize("period", PERIODS)
def test_a_soft_limit_is_reported_once_in_its_period(
    conn: sqlite3.Connection, period: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit = Limit("key", "k", period, 1.0, 0.8)
    for number in range(5):
        one = call(str(number))
        one.attribution = Attribution("task", "agent", None, "k", "t")
        one.limited, one.limits = ("key",), (limit,)
        apply.transaction(conn, [Started(one, (limit,))], "w", True)
        apply.transaction(conn, [ended(one, 0.3)], "w", True)
    sent = [
        json.loads(row[0]) for row in conn.execute("SELECT payload FROM outbox WHERE type = 'litellm.budget.warning'")
    ]
    assert [(one["scope"], one["name"], one["period"], one["limit_usd"], one["spent_usd"]) for one in sent] == [("key", "k", period, 1.0, 0.9)]  # fmt: skip
    check_schema("BudgetEvent", sent[0])
    assert len([record for record in caplog.records if "of its budget" in record.message]) == 1


def test_what_a_key_has_used_is_its_own(conn: sqlite3.Connection, ledger: Path) -> None:
    make(conn, "k", budgets={"day": 5.0})
    run(conn, "1", 0.5)
    run(conn, "2", 0.25)
    [row] = queries.ask(ledger, "key_usage", {"name": "k"})
    assert row["total"] == {"requests": 2, "cost_usd": 0.75}
    assert [(day["requests"], day["cost_usd"]) for day in row["days"]] == [(2, 0.75)]
    assert [(budget["period"], budget["spent_usd"]) for budget in row["budgets"]] == [("day", 0.75)]
    assert queries.ask(ledger, "key_usage", {"name": "other"})[0]["total"] == {"requests": 0, "cost_usd": 0.0}


def test_a_list_of_keys_has_the_budgets_of_each_with_one_look_for_all(conn: sqlite3.Connection) -> None:
    make(conn, "k", budgets=dict.fromkeys(PERIODS, 5.0))
    make(conn, "other", budgets={"day": 5.0})
    for number, age in enumerate((0.0, 3600.0, 5 * 86400.0, 40 * 86400.0)):
        assert run(conn, str(number), 0.25, (), age)
    assert run(conn, "open", 0.0)
    conn.execute("UPDATE requests SET status = 'started', reserved_usd = 0.5 WHERE id = 'open'")
    listed = key_rows(conn)
    assert [row["budgets"] for row in listed] == [key_rows(conn, row["name"])[0]["budgets"] for row in listed]
    assert {budget["period"]: budget["reserved_usd"] for budget in listed[0]["budgets"]} == dict.fromkeys(PERIODS, 0.5)
    assert listed[0]["budgets"][-1]["spent_usd"] > 0 == listed[1]["budgets"][0]["spent_usd"]
    asked: list[str] = []
    conn.set_trace_callback(asked.append)
    key_rows(conn)
    few = len(asked)
    for number in range(20):
        make(conn, f"many{number}", budgets={"day": 5.0, "month": 50.0})
    asked.clear()
    key_rows(conn)
    assert len(asked) == few  # with a look for each key, a list of 10,000 takes nine seconds


def test_a_table_that_cannot_be_read_is_an_error_and_not_a_ledger_without_keys(conn: sqlite3.Connection) -> None:
    conn.execute("DROP TABLE key_secrets")
    with pytest.raises(sqlite3.OperationalError):
        key_rows(conn)
    conn.execute("DELETE FROM migrations WHERE number >= 8")
    assert key_rows(conn) == []
