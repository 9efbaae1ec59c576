"""A start that cannot succeed is noticed from what the runtime shows, and its error is found in the log."""

import json

import pytest

from lmstack.runtime.base import Service
from lmstack.runtime.logs import last_error
from lmstack.runtime.readiness import Watch

RUNNING = Service("proxy", "running", pid=10)
HICCUP = Service("proxy", "failed", "unknown: no Docker engine answers", is_known=False)
CHAINED = [
    "Traceback (most recent call last):",
    '  File "a.py", line 1, in <module>',
    "ValueError: the reason",
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    "Traceback (most recent call last):",
    '  File "b.py", line 1, in <module>',
    "ImportError: what failed",
]


@pytest.mark.parametrize(
    ("polls", "ended"),
    [
        ([[Service("proxy", "stopped")], [Service("proxy", "starting", pid=10)], [RUNNING]], None),
        ([[Service("proxy", "starting", "supervisord starts")], [RUNNING], [RUNNING]], None),
        ([[RUNNING], [Service("proxy", "running", pid=11)]], "proxy"),
        ([[RUNNING], [Service("proxy", "stopped")]], "proxy"),
        ([[RUNNING], [Service("proxy", "running", pid=10, restarts=1)]], "proxy"),
        ([[Service("proxy", "running", pid=10, restarts=7)], [Service("proxy", "running", pid=10, restarts=7)]], None),
        ([[Service("proxy", "restarting")]], "proxy"),
        ([[Service("proxy", "failed")]], "proxy"),
        ([[RUNNING], []], "proxy"),
        ([[]], None),
        ([[RUNNING], [HICCUP], [RUNNING]], None),
        ([[RUNNING], [HICCUP], [Service("proxy", "stopped")]], "proxy"),
        ([[RUNNING, Service("model", "restarting")]], "model"),
    ],
)
def test_a_program_that_ended_is_noticed_although_it_was_started_again(
    polls: list[list[Service]], ended: str | None
) -> None:
    watch = Watch()
    found = [watch.ended(services) for services in polls]
    assert found[-1] == ended
    assert not any(found[:-1])


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], ""),
        (["one", "two"], "two"),
        (CHAINED, "ImportError: what failed (cause: ValueError: the reason)"),
        ([*CHAINED, "[ERROR] Unexpected exit from worker-1", "[INFO] Granian shutdown completed, see ya!"], "ImportError: what failed (cause: ValueError: the reason)"),
        (["KeyError: 'before'", "During handling of the above exception, another exception occurred:", "OSError: after"], "OSError: after"),
        ([json.dumps({"level": "ERROR", "message": "no such file", "timestamp": "2026-11-24T10:00:00"}), "bye"], "ERROR: no such file"),
        ([json.dumps({"level": "INFO", "message": "hello"})], "INFO: hello"),
        ([json.dumps({"level": "ERROR", "message": "a task failed", "stacktrace": "Traceback (most recent call last):\n  File\nSystemExit: the reason"})], "SystemExit: the reason"),
        (["{not json"], "{not json"),
        (["x" * 1000], "x" * 300),
    ],
)  # fmt: skip
def test_the_last_error_of_a_log_is_one_line_with_its_cause(lines: list[str], found: str) -> None:
    assert last_error(lines) == found
