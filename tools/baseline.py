"""Read tools/baseline.txt: the files that are not yet held to a rule."""

from pathlib import Path

BASELINE = Path(__file__).with_name("baseline.txt")
RULES = ("prose", "length", "docstrings")


def allowed(rule: str) -> set[str]:
    """Return the paths that the rule does not check yet."""
    lines = BASELINE.read_text(encoding="utf-8").splitlines() if BASELINE.exists() else []
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if unknown := sorted({word for row in rows for word in row[1:]} - set(RULES)):
        raise SystemExit(f"tools/baseline.txt: no such rule: {unknown[0]}; rules: {', '.join(RULES)}")
    return {row[0] for row in rows if rule in row[1:]}
