"""``lm``. Help is answered from generated pages, because importing a CLI library costs more CPU than the answer is
worth; `make docs` writes the pages and a test holds them equal to what Typer prints."""

import os
import sys
from pathlib import Path

COMPLETION = "_LM_COMPLETE"  # set by the script of `lm completion`


def main() -> None:
    """Entry point. Ctrl-C ends it with one word, even while it is still being imported."""
    try:
        _run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(1)


def _run() -> None:
    words = sys.argv[1:]
    asked = not words or words[-1] in ("--help", "-h")
    if asked and COMPLETION not in os.environ:
        page = _page(" ".join(words[:-1]))
        if page is not None:
            sys.stdout.write(page)
            # Without arguments nothing was asked for: a usage error, as in every other tool.
            sys.exit(0 if words else 2)
    from lmstack.cli.app import main as run

    run()


def _page(name: str) -> str | None:
    path = Path(__file__).with_name("help.json")
    if not path.exists():
        return None
    import json

    found = json.loads(path.read_text(encoding="utf-8")).get(name)
    return found if isinstance(found, str) else None


if __name__ == "__main__":
    main()
