"""Alerts on a real ledger: what fires, once for all workers, and what each target gets."""

import json
import sqlite3
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from documented import check_schema
from ledger_records import call, ended, make_writer, write
from lmstack.ledger import alerts, events, outbox, queries, schema
from lmstack.ledger.alert_checks import Facts, ServedModel
from lmstack.ledger.alert_rules import DEFAULTS, AlertRules, AlertTarget
from lmstack.ledger.records import Attempt, Ended, Fault
from lmstack.ledger.writer import Writer
from lmstack.routing.budgets import Limit

TASKMASTER, OPS, SLACK = AlertTarget("taskmaster"), AlertTarget("ops", "OPS_URL"), AlertTarget("slack", "SLACK_URL", rules=("provider_down",))  # fmt: skip
MINI = ServedModel("gpt-4o-mini", "openai", None, (0.15, 0.6))
FACTS = Facts((MINI,))


def rules(*names: str, **values: Any) -> AlertRules:
    return AlertRules(
        {name: {**DEFAULTS, **values}[name] for name in (*names, *values)}, 30.0, (TASKMASTER, OPS, SLACK)
    )


def run(
    ledger: Path, of: AlertRules, facts: Facts = FACTS, later: float = 0.0
) -> list[tuple[str, str, dict[str, Any]]]:
    """Check the rules once; return the target, the type and the body of each new event, and see that TaskMaster knows it."""
    with schema.connect(ledger) as conn:
        before = conn.execute("SELECT COALESCE(MAX(seq), 0) FROM outbox").fetchone()[0]
        alerts.run(conn, of, facts, of.to, time.time() + later)
        rows = conn.execute("SELECT target, type, payload FROM outbox WHERE seq > ? ORDER BY seq", (before,)).fetchall()
    found = [(target, kind.removeprefix("litellm."), json.loads(payload)) for target, kind, payload in rows]
    for _, kind, body in found:
        check_schema("EventType", f"litellm.{kind}")
        check_schema("BudgetEvent" if kind == "budget.warning" else "AlertEvent", body)
    return found


def failed(id_: str, code: str = "500", age: float = 0.0, message: str = "m", provider: str = "openai") -> Ended:
    one = call(id_, age=age)
    fault = Fault("InternalServerError", code, message)
    one.attempts[:] = [Attempt("gpt-4o-mini", "gpt-4o-mini", provider, None, 1, None, False, one.started_at)]
    one.attempts[0].close("failed", fault)
    return Ended(one, "failed", time.time() - age, 1.0, fault=fault)


def answered(id_: str, age: float = 0.0) -> Ended:
    one = call(id_, age=age)
    one.attempts[0].started_at = one.started_at
    one.attempts[0].close("succeeded")
    return ended(one)


def test_a_dead_provider_is_reported_once_and_its_return_once(writer: Writer, ledger: Path) -> None:
    wanted = rules("provider_down")
    write(writer, answered("old", age=900), failed("f1"), failed("f2"))
    assert run(ledger, wanted) == []  # two failures are not enough
    write(writer, failed("f3"))
    sent = run(ledger, wanted)
    assert [(target, kind) for target, kind, _ in sent] == [("", "alert.firing"), ("ops", "alert.firing"), ("slack", "alert.firing")]  # fmt: skip
    assert (
        sent[0][2]["text"]
        == "No request to openai has succeeded for 5 minutes: 3 failed. The last: InternalServerError 500."
    )
    assert run(ledger, wanted) == []
    assert run(ledger, wanted, later=3600) == []  # nothing new is known
    write(writer, answered("back", age=-1))
    assert [(kind, body["text"]) for _, kind, body in run(ledger, wanted)] == [
        ("alert.ended", "openai answers again.")
    ] * 3
    assert run(ledger, wanted) == []


@pytest.mark.parametrize(("code", "message"), [("400", "m"), ("499", "m"), ("401", "With the client's own key: no")])
def test_what_is_the_client_s_fault_says_nothing_about_a_provider(
    writer: Writer, ledger: Path, code: str, message: str
) -> None:
    write(writer, *(failed(f"f{n}", code, message=message) for n in range(5)))
    assert run(ledger, rules("provider_down")) == []


def test_a_provider_that_answers_now_and_then_is_not_down_and_one_that_is_not_served_ends(
    writer: Writer, ledger: Path
) -> None:
    write(writer, answered("a"), *(failed(f"f{n}") for n in range(9)))
    assert run(ledger, rules("provider_down")) == []
    write(writer, *(failed(f"g{n}", provider="acme") for n in range(3)))
    facts = Facts((MINI, ServedModel("x", "acme")))
    assert len(run(ledger, rules("provider_down"), facts)) == 3
    assert {body["text"] for *_, body in run(ledger, rules("provider_down"))} == {"acme is not served any more."}


def test_the_failure_rate_fires_at_its_limit_and_ends_at_half_of_it(writer: Writer, ledger: Path) -> None:
    wanted = rules(failure_rate={"percent": 20, "minutes": 10, "requests": 10})
    write(writer, *(answered(f"a{n}") for n in range(7)), failed("b", "400"), failed("c", "400"))
    write(writer, failed("f1"), failed("old1", age=1000), failed("old2", age=1000))
    assert run(ledger, wanted) == []  # one of ten: requests that were wrong in themselves are no failures
    write(writer, failed("f2"))
    assert run(ledger, wanted) == []  # two of eleven
    write(writer, failed("f3"))
    sent = run(ledger, wanted)
    assert [(target, kind, body["value"]) for target, kind, body in sent] == [("", "alert.firing", 25.0), ("ops", "alert.firing", 25.0)]  # fmt: skip
    write(writer, *(answered(f"d{n}") for n in range(8)))  # 15 %
    assert run(ledger, wanted) == []
    assert run(ledger, wanted, later=3600) == []  # no request, so nothing is known
    write(writer, *(answered(f"e{n}") for n in range(20)))
    assert {kind for _, kind, _ in run(ledger, wanted)} == {"alert.ended"}


def spend(writer: Writer, id_: str, usd: float, *limits: Limit) -> None:
    one = call(id_)
    one.limits = limits
    write(writer, ended(one, usd))


def test_a_budget_is_reported_once_at_each_level_of_its_period(writer: Writer, ledger: Path) -> None:
    limit = Limit("task", "t", "day", 1.0, 0.8)
    facts, wanted = Facts((MINI,), (Limit("task", "*", "day", 1.0, 0.8),)), rules("budget")
    spend(writer, "a", 0.5, limit)
    assert run(ledger, wanted, facts) == []
    spend(writer, "b", 0.35, limit)
    # TaskMaster has got the first warning from the writer, in the same transaction.
    assert [(target, kind, body["value"]) for target, kind, body in run(ledger, wanted, facts)] == [("ops", "alert.firing", 0.85)]  # fmt: skip
    spend(writer, "c", 0.2, limit)
    sent = run(ledger, wanted, facts)
    assert [(target, kind) for target, kind, _ in sent] == [("", "budget.warning"), ("ops", "alert.firing")]
    assert (sent[0][2]["soft_limit_usd"], sent[0][2]["limit_usd"], sent[1][2]["threshold"]) == (1.0, 1.0, 1.0)
    assert run(ledger, wanted, facts) == []
    assert run(ledger, wanted, facts, later=2 * 86400) == []  # the next period begins without a word
    assert run(ledger, wanted, facts) == []
    with schema.connect(ledger) as conn:
        count = conn.execute("SELECT COUNT(*) FROM outbox WHERE type = 'litellm.budget.warning'").fetchone()[0]
    assert count == 2  # at 80 and at 100 %


def test_a_budget_that_jumps_over_both_levels_is_reported_once_and_a_raised_one_not_at_all(
    writer: Writer, ledger: Path
) -> None:
    spend(writer, "a", 1.5, Limit("agent", "a", "total", 1.0, 0.8))
    facts = Facts((MINI,), (Limit("agent", "a", "total", 5.0, 0.8),))
    assert run(ledger, rules("budget"), facts) == []
    facts = Facts((MINI,), (Limit("agent", "a", "total", 1.0, 0.8),))
    sent = run(ledger, rules("budget"), facts)
    assert [(target, body["text"]) for target, _, body in sent if target] == [("ops", "The budget of agent a per total is used up by 150 %: 1.5000 of 1.0000 USD.")]  # fmt: skip


def test_the_budget_of_a_key_counts_by_the_limits_that_it_has_now(writer: Writer, ledger: Path) -> None:
    queries.ask(ledger, "key_change", {"action": "create", "actor": "me", "name": "bot", "hash": "h", "limits": {"budgets": {"day": 1.0}}})  # fmt: skip
    one = call("a")
    one.limits = (Limit("key", "bot", "day", 1.0, 0.8),)
    one.attribution = type(one.attribution)(key_alias="bot")
    write(writer, ended(one, 0.9))
    assert [target for target, *_ in run(ledger, rules("budget"))] == ["ops"]


def test_dead_events_fire_and_end(conn: sqlite3.Connection, ledger: Path) -> None:
    wanted = rules("events_dead")
    with schema.writing(conn):
        outbox.put(conn, events.COST, "task:t", {}, time.time())
        outbox.put(conn, events.ALERT_TEST, "x", {}, time.time())
        conn.execute("UPDATE outbox SET state = 'dead' WHERE type = ?", (events.ALERT_TEST,))
    assert run(ledger, wanted) == []  # a test that does not arrive has told so already
    conn.execute("UPDATE outbox SET state = 'dead'")
    assert {(target, kind) for target, kind, _ in run(ledger, wanted)} == {
        ("", "alert.firing"),
        ("ops", "alert.firing"),
    }
    queries.ask(ledger, "replay", {})
    assert {kind for _, kind, _ in run(ledger, wanted)} == {"alert.ended"}


def test_a_model_that_ends_is_reported_once(ledger: Path, conn: sqlite3.Connection) -> None:
    day = datetime.fromtimestamp(time.time() + 20 * 86400, timezone.utc).date().isoformat()
    far = datetime.fromtimestamp(time.time() + 40 * 86400, timezone.utc).date().isoformat()
    facts = Facts(
        (ServedModel("m", "openai", day), ServedModel("n", "openai", far), ServedModel("o", "openai", "soon"))
    )
    sent = run(ledger, rules("model_retires"), facts)
    assert [(target, body["subject"]) for target, _, body in sent] == [("", "m"), ("ops", "m")]
    assert sent[0][2]["value"] in (19, 20)
    assert run(ledger, rules("model_retires"), facts) == []
    assert run(ledger, rules("model_retires"), Facts()) == []
    assert run(ledger, rules("model_retires"), facts) == []


def test_a_price_is_compared_with_the_last_check(ledger: Path, conn: sqlite3.Connection) -> None:
    wanted, dearer = rules("price_changed"), Facts((ServedModel("gpt-4o-mini", "openai", None, (0.3, 0.6)),))
    assert run(ledger, wanted) == []
    assert run(ledger, wanted) == []
    sent = run(ledger, wanted, dearer)
    assert sent[0][2]["text"] == "The price of gpt-4o-mini goes from 0.15 / 0.6 to 0.3 / 0.6 USD per million tokens (input / output)."  # fmt: skip
    assert run(ledger, wanted, dearer) == []
    assert len(run(ledger, wanted, later=5)) == 2


def test_of_many_workers_one_checks_and_none_sends_twice(writer: Writer, ledger: Path) -> None:
    write(writer, *(failed(f"f{n}") for n in range(5)))
    wanted, now, turns = rules("provider_down"), time.time(), []
    start = threading.Barrier(8)

    def work(take: bool) -> None:
        with schema.connect(ledger) as conn:
            conn.execute("PRAGMA busy_timeout = 10000")
            start.wait()
            if take:
                turns.append(alerts.take_turn(conn, 30.0, now))
            else:
                alerts.run(conn, wanted, FACTS, wanted.to, now)

    for take in (True, False):
        threads = [threading.Thread(target=work, args=(take,)) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert sorted(turns) == [False] * 7 + [True]
    with schema.connect(ledger) as conn:
        rows = conn.execute(
            "SELECT target, COUNT(*) FROM outbox WHERE type = ? GROUP BY target", (events.ALERT_FIRING,)
        )
        assert rows.fetchall() == [("", 1), ("ops", 1), ("slack", 1)]
        assert not alerts.take_turn(conn, 30.0, now + 29)
        assert alerts.take_turn(conn, 30.0, now + 31)
        assert alerts.take_turn(conn, 30.0, now - 1000)  # the clock was set back


def test_many_troubles_of_one_look_begin_one_look_after_the_other(writer: Writer, ledger: Path) -> None:
    limits = [Limit("task", f"T{n}", "day", 0.01, 0.8) for n in range(45)]
    for number, limit in enumerate(limits):
        one = call(f"c{number}", task=limit.name)
        one.limits = (limit,)
        write(writer, ended(one, 0.02))
    facts, wanted = Facts((), (Limit("task", "*", "day", 0.01, 0.8),)), rules("budget")
    numbers = [len([1 for target, *_ in run(ledger, wanted, facts) if target == "ops"]) for _ in range(6)]
    assert sum(numbers) == 45
    assert max(numbers) <= alerts.MOST_AT_ONCE


def test_what_waits_for_a_target_that_is_gone_is_given_up(conn: sqlite3.Connection, ledger: Path) -> None:
    with schema.writing(conn):
        outbox.put(conn, events.ALERT_FIRING, "alert:old:x", {}, time.time(), "old")
        outbox.put(conn, events.COST, "task:t", {}, time.time())
    run(ledger, rules("events_dead"))
    assert conn.execute("SELECT target, state, last_error FROM outbox").fetchall() == [("old", "dead", outbox.GIVEN_UP), ("", "pending", None)]  # fmt: skip
    assert conn.execute("SELECT target FROM lanes").fetchall() == [("",)]
    assert run(ledger, rules("events_dead")) == []


def test_a_ledger_of_the_last_schema_gets_alerts_and_keeps_its_events(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make a ledger with the migrations before this one, put an event into it, and migrate it."""
    steps = [step.__name__ for step in schema.MIGRATIONS]
    monkeypatch.setattr(schema, "VERSION", steps.index("_m011_alerts"))
    with schema.connect(ledger) as conn:
        schema.migrate(conn)
        conn.execute("INSERT INTO outbox (event_id, type, order_key, created_at, payload, next_attempt_at) VALUES ('e','t','k',1,'{}',1)")  # fmt: skip
        conn.execute("INSERT INTO lanes (order_key, due_at) VALUES ('k', 1)")
    assert queries.ask(ledger, "alerts", {}) == [{"firing": [], "sent": []}]
    with pytest.raises(FileNotFoundError):
        queries.ask(ledger, "alert_test", {"targets": [""]})
    monkeypatch.undo()
    make_writer(ledger).close()
    with schema.connect(ledger) as conn:
        ((event,),) = outbox.lease(conn, "me", time.time(), 9, 9)
        assert outbox.lease(conn, "me", time.time(), 9, 9, target="ops") == []
    assert event.event_id == "e"
    (sent,) = queries.ask(ledger, "alert_test", {"targets": ["ops"]})
    (state,) = queries.ask(ledger, "alerts", {})
    assert [(row["target"], row["event_id"], row["state"]) for row in state["sent"]] == [("ops", sent["event_id"], "pending")]  # fmt: skip
