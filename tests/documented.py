"""Checks against what the docs promise: the schemas of docs/taskmaster-api.yaml, the keys of docs/json.md."""

from typing import Any

import yaml

from support import ROOT

CONTRACT = yaml.safe_load((ROOT / "docs" / "taskmaster-api.yaml").read_text())


def check_schema(name: str, value: object) -> None:
    """Validate a value against one of the published schemas."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": CONTRACT["components"]}
    import jsonschema  # takes most of a second, and few tests need it

    jsonschema.Draft202012Validator(schema).validate(value)


JSON_OUTPUT: dict[str, dict[str, str]] = yaml.safe_load((ROOT / "tools" / "json_output.yaml").read_text())
# tests/integration checks the JSON of these commands. tests/contract checks the others, which need no gateway.
NEED_A_GATEWAY = {
    "up", "restart", "dashboard", "report", "usage", "errors", "requests", "request CALL", "logs", "status", "health", "test gpt-4o-mini",
    "events status", "events list", "events tail", "events dead", "events replay", "upgrade --to RELEASE", "rollback", "alerts test",
}  # fmt: skip


def check_json_keys(words: str, result: dict[str, Any]) -> None:
    """Check that a command's JSON has exactly the keys that docs/json.md lists."""
    assert sorted(result) == ["command", "data", "messages", "ok"]
    assert words.startswith(result["command"])
    data, paths = result["data"], JSON_OUTPUT[words]
    assert set(data) == {path.partition("[]")[0] for path in paths}
    for path in paths:
        name, nested, key = path.partition("[].")
        if nested and data[name]:
            assert key in data[name][0]
            assert len(data[name][0]) == sum(other.startswith(f"{name}[].") for other in paths), name
