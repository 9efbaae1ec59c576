"""Run tests/contract and tests/integration with a LiteLLM release, and write the result into proven.json.

``python tools/test_against.py RELEASE [PYTEST ARGUMENTS]``. With arguments, for example a file, nothing is written.
`lm upgrade` reads proven.json, and `make docs` prints it in docs/operations.md.
"""

import collections
import datetime
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from release_env import FOLDER, ROOT, python_with

PROVEN = ROOT / "src" / "lmstack" / "releases" / "proven.json"
TESTS = ("tests/contract", "tests/integration")
PYTEST = (
    "-m",
    "pytest",
    "--dist",
    "loadgroup",
    "--no-loadscope-reorder",
    "-m",
    "not docker and not exhaustive and not campaign",
    "-n",
    "4",
)
# Prints the private names that a release lacks. Some are names of a router.
MISSING = """
import json, os
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
from litellm.proxy import proxy_server
from lmstack.gateway.stock import lookup
proxy_server.llm_router = litellm.Router([{"model_name": "m", "litellm_params": {"model": "openai/m", "api_key": "sk-none"}}])
print(json.dumps([use.place for use in lookup.missing()]))
"""


def result(release: str, report: Path, missing: list[str]) -> dict[str, Any]:
    """Return the entry of proven.json for a finished run. ``report``: the JUnit XML of pytest."""
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - our own pytest wrote it
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    reasons = [found.get("message", "") for case in cases if (found := case.find("skipped")) is not None]
    # tests/conftest.py begins the reason with the release where a test cannot pass with it.
    mark = f"LiteLLM {release}: "
    left_out = collections.Counter(reason.removeprefix(mark) for reason in reasons if reason.startswith(mark))
    skipped = collections.Counter(reason for reason in reasons if not reason.startswith(mark))
    return {
        "release": release,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "passed": len(cases) - len(failed) - len(reasons),
        "failed": len(failed),
        "skipped": dict(sorted(skipped.items())),
        "left_out": dict(sorted(left_out.items())),
        "missing": missing,
    }


def record(entry: dict[str, Any], path: Path = PROVEN) -> None:
    """Put the entry in the place of the release's last one."""
    others = [known for known in json.loads(path.read_text()) if known["release"] != entry["release"]]
    entries = sorted(
        [*others, entry], key=lambda known: [int(part) for part in known["release"].split(".")], reverse=True
    )
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def main(argv: list[str]) -> int:
    """Run the tests; return pytest's exit code. Write the result of a whole run that was not interrupted."""
    if not argv:
        sys.exit("usage: test_against.py RELEASE [PYTEST ARGUMENTS]")
    release, *arguments = argv
    python = str(python_with(release))
    report = FOLDER / f"{release}.xml"
    code = subprocess.run([python, *PYTEST, f"--junitxml={report}", *(arguments or TESTS)], cwd=ROOT).returncode
    if arguments or code not in (0, 1):
        return code
    told = subprocess.run([python, "-c", MISSING], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    entry = result(release, report, json.loads(told.splitlines()[-1]))
    record(entry)
    print(f"{PROVEN.relative_to(ROOT)}: {entry['passed']} passed, {entry['failed']} failed; now run: make docs")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
