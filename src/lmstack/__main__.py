"""``lm``. Plain ``lm --help`` is answered from a generated page, because importing a CLI library costs more CPU
than the answer is worth; `make docs` writes the page and a test holds it equal to what Typer prints."""

import sys
from pathlib import Path


def main() -> None:
    """Entry point."""
    if sys.argv[1:] in (["--help"], ["-h"], []):
        page = Path(__file__).with_name("help.txt")
        if page.exists():
            sys.stdout.write(page.read_text(encoding="utf-8"))
            # Without arguments nothing was asked for: a usage error, as in every other tool.
            sys.exit(0 if sys.argv[1:] else 2)
    from lmstack.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
