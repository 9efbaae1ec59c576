"""Webhooks: their forms, that no address appears anywhere, and that a dead one holds up nothing else."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from lmstack.delivery.contract import Target, sign
from lmstack.delivery.sender import Sender
from lmstack.delivery.webhooks import is_slack, webhooks_from
from lmstack.ledger import events, outbox, queries, schema
from lmstack.ledger.alert_rules import AlertTarget
from lmstack.ledger.outbox import LeasedEvent
from posts import post
from support import free_port, wait_for

TEXT = "The budget of task <!channel> & <https://evil.example|you> is used up"
PAYLOAD = events.alert_payload("budget", "task", TEXT, (0.9, 0.8), 1_700_000_000.0, 1_700_000_000.0)
ALERT = LeasedEvent(1, "evt_1", events.ALERT_FIRING, "alert:ops:budget", 1_700_000_000.0, json.dumps(PAYLOAD), 0)


@pytest.mark.parametrize(
    ("form", "address", "slack"),
    [
        ("auto", "https://hooks.slack.com/services/T/B/x", True), ("auto", "https://hooks.slack.com.evil/x", False),
        ("auto", "https://ops.example/x", False), ("slack", "https://mattermost.example/hooks/x", True),
        ("json", "https://hooks.slack.com/services/T/B/x", False), ("auto", "https://[::1", False),
    ],
)  # fmt: skip
def test_the_host_or_models_yaml_decides_the_form(form: str, address: str, slack: bool) -> None:
    assert is_slack(form, address) is slack


def test_a_target_without_an_address_gets_nothing() -> None:
    targets = [AlertTarget("taskmaster"), AlertTarget("a", "A_URL", "A_SECRET"), AlertTarget("b", "B_URL")]
    found, missing = webhooks_from(targets, {"A_URL": " http://h/x ", "A_SECRET": "s"})
    assert [(one.url, one.secret, one.column, one.variable) for one in found] == [("http://h/x", "s", "a", "A_URL")]
    assert [one.name for one in missing] == ["b"]
    assert "http://h/x" not in repr(found)


def test_slack_gets_a_text_that_mentions_nobody(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/services/T/B/x").respond_with_data("ok")
    assert post(Target(httpserver.url_for("/services/T/B/x"), secret="s", column="ops", form="slack"), ALERT).delivered
    request = httpserver.log[0][0]
    assert json.loads(request.data) == {"text": "⚠️ The budget of task &lt;!channel&gt; &amp; &lt;https://evil.example|you&gt; is used up"}  # fmt: skip
    assert request.headers["content-type"] == "application/json"
    assert "ce-id" not in request.headers


def test_any_other_webhook_gets_the_signed_event(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/x").respond_with_data("")
    assert post(Target(httpserver.url_for("/x"), secret="whsec_c2VjcmV0", column="ops"), ALERT).delivered
    request = httpserver.log[0][0]
    headers, body = request.headers, request.data.decode()
    assert json.loads(body) == PAYLOAD
    assert headers["ce-type"] == "litellm.alert.firing"
    assert headers["webhook-signature"] == sign("whsec_c2VjcmV0", "evt_1", int(headers["webhook-timestamp"]), body)
    assert "authorization" not in headers


def _written_out(record: logging.LogRecord) -> bool:
    record.msg, record.args = record.getMessage(), None
    return True


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/services/T0PSECRET", "ftp://h/T0PSECRET", "http://[::1/T0PSECRET", "T0PSECRET", "https://127.0.0.1:1/T0PSECRET", "HTTP://LOCALHOST:{port}/T0PSECRET"],
)  # fmt: skip
def test_the_address_is_in_no_error_and_no_log_line(
    httpserver: HTTPServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "httpx")  # LiteLLM raises it
    monkeypatch.setattr(logging.getLogger("httpx"), "filters", [_written_out])  # LiteLLM's filter may come before ours
    logging.getLogger("httpx").info("HTTP Request: %s", "http://elsewhere/")
    httpserver.expect_request("/T0PSECRET").respond_with_data("", status=404)
    target = Target(address.format(port=httpserver.port), column="ops", variable="OPS_URL")
    outcome = post(target, ALERT)
    assert outcome.failure is not None
    assert "T0PSECRET" not in f"{outcome} {target}".lower().upper()
    ours = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]
    assert "T0PSECRET" not in "".join(ours).upper()
    assert "elsewhere" in ours[0]


def test_a_dead_webhook_holds_up_no_other_target(tmp_path: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/tm").respond_with_data("")
    path = tmp_path / "l.db"
    with schema.connect(path) as conn:
        schema.migrate(conn)
        with schema.writing(conn):
            for number in range(20):
                outbox.put(conn, events.ALERT_FIRING, f"alert:ops:{number}", PAYLOAD, time.time(), "ops")
                outbox.put(conn, events.COST, "", {}, time.time())
    dead = Target(f"http://127.0.0.1:{free_port()}/x", column="ops", variable="OPS_URL")
    senders = [
        Sender(path, dead, owner="w", poll=0.02),
        Sender(path, Target(httpserver.url_for("/tm")), owner="w", poll=0.02),
    ]
    try:
        wait_for(lambda: _states(path).get(("", "delivered")) == 20, 20)
        wait_for(lambda: _tried(path), 20, "each alert to be tried")
    finally:
        for sender in senders:
            sender.close()
    assert {target for target, state in _states(path) if state == "delivered"} == {""}
    assert _states(path)[("ops", "pending")] == 20


def _states(path: Path) -> dict[tuple[str, str], int]:
    with schema.connect(path) as conn:
        rows = conn.execute("SELECT target, state, COUNT(*) FROM outbox GROUP BY 1, 2").fetchall()
    return {(target, state): count for target, state, count in rows}


def _tried(path: Path) -> bool:
    rows: list[dict[str, Any]] = queries.ask(path, "events", {"limit": 100})
    return any(row["order_key"].startswith("alert:") and row["last_error"] for row in rows)


def test_a_sender_releases_only_the_leases_of_its_own_target(tmp_path: Path) -> None:
    with schema.connect(tmp_path / "l.db") as conn:
        schema.migrate(conn)
        with schema.writing(conn):
            outbox.put(conn, events.ALERT_FIRING, "alert:ops:1", PAYLOAD, 1.0, "ops")
            outbox.put(conn, events.COST, "task:t", {}, 1.0)
        assert outbox.lease(conn, "w", 2.0, 9, 9)
        assert outbox.lease(conn, "w", 2.0, 9, 9, target="ops")
        outbox.release(conn, "w", "ops")
        assert outbox.lease(conn, "v", 3.0, 9, 9) == []
        assert outbox.lease(conn, "v", 3.0, 9, 9, target="ops")
        outbox.release(conn, "w")  # the worker was found dead
        assert outbox.lease(conn, "v", 4.0, 9, 9)
