"""Which releases are proven."""

import re
from pathlib import Path

import pytest

import test_against
from lmstack.gateway.stock.uses import USES
from lmstack.releases import pins, proven

REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"/>
<testcase name="c"><failure message="no"/></testcase>
<testcase name="d"><error message="no"/></testcase>
<testcase name="e"><skipped message="LiteLLM 1.2.3: it has no such thing"/></testcase>
<testcase name="f"><skipped message="no npm"/></testcase>
<testcase name="g"><skipped message="no npm"/></testcase>
</testsuite></testsuites>"""


def test_the_release_in_the_docs_has_passed_every_test() -> None:
    """The pinned release has no entry until somebody runs `make test-against` with it: `make test` runs with it."""
    assert "1.106.10" in proven.proven()
    assert all(run.passed > 800 and run.failed == 0 for run in proven.runs())
    assert {name for run in proven.runs() for name in run.missing} <= {use.place for use in USES}


@pytest.mark.parametrize(
    ("version", "command"),
    [
        (pins.LITELLM_VERSION, f"lm upgrade --to {pins.LITELLM_VERSION}"),
        ("1.106.010", "lm upgrade --to 1.106.010"),
        ("1.106.3", "lm upgrade --to 1.106.3 --unproven"),
    ],
)
def test_the_command_for_a_release_has_the_flag_that_it_needs(version: str, command: str) -> None:
    assert proven.upgrade_command(version) == command


def test_a_run_is_counted_by_outcome_and_by_reason(tmp_path: Path) -> None:
    report, written = tmp_path / "report.xml", tmp_path / "proven.json"
    report.write_text(REPORT)
    entry = test_against.result("1.2.3", report, ["router.model_list"])
    counts = {name: entry[name] for name in ("passed", "failed", "skipped", "left_out", "missing")}
    assert counts == {
        "passed": 2,
        "failed": 2,
        "skipped": {"no npm": 2},
        "left_out": {"it has no such thing": 1},
        "missing": ["router.model_list"],
    }
    written.write_text("[]")
    test_against.record(entry, written)
    test_against.record(entry | {"release": "1.10.0"}, written)
    test_against.record(entry | {"failed": 0}, written)
    assert re.findall(r'"release": "(.*)"', written.read_text()) == ["1.10.0", "1.2.3"]
    assert '"failed": 2' in written.read_text()
