"""Build the documentation site from docs/ and the pages beside it: `make docs-site` writes build/site/html.

The build is strict: zensical ends with an error at a link that leads nowhere.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "build" / "site"
# Files outside docs/, and their names on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
    "src/lmstack/operate/receiver.py": "receiver.py",
}


def page(text: str, folder: str) -> str:
    """Return a page with its links changed for the site; ``folder`` is where the page is: "" or "docs"."""

    def target(match: re.Match[str]) -> str:
        path, hash_, anchor = match.group(1).partition("#")
        inside = path.removeprefix("../") if folder else path
        if inside in OUTSIDE and (path.startswith("../") or not folder):
            path = OUTSIDE[inside]
        elif not folder:
            path = path.removeprefix("docs/")
        return f"]({path}{hash_}{anchor})"

    return re.sub(r"\]\(((?!https?:)[^)\s]+)\)", target, text)


def write_source() -> None:
    """Copy the pages to build/site."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    docs = SOURCE / "docs"
    shutil.copytree(ROOT / "docs", docs)
    for path in docs.glob("*.md"):
        path.write_text(page(path.read_text(encoding="utf-8"), "docs"), encoding="utf-8")
    for name, new in OUTSIDE.items():
        if name == "README.md":  # index.md takes its place
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        (docs / new).write_text(page(text, "") if new.endswith(".md") else text, encoding="utf-8")
    shutil.copy(ROOT / "tools" / "docs_site.toml", SOURCE / "zensical.toml")


def main() -> int:
    """Build the site; return zensical's exit code."""
    zensical = Path(sys.executable).with_name("zensical")
    if not zensical.exists():
        print("docs-site: zensical is not installed; it needs Python 3.11 or newer. Run: make setup", file=sys.stderr)
        return 2
    write_source()
    done = subprocess.run([str(zensical), "build", "--strict", "--clean"], cwd=SOURCE, check=False)
    if done.returncode == 0:
        print("docs-site: build/site/html/index.html written")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
