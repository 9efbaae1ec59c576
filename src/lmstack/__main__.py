"""``lm``. Help is answered from generated pages, because importing a CLI library costs more CPU than the answer is
worth; `make docs` writes the pages and a test holds them equal to what Typer prints."""

import os
import sys
from pathlib import Path

COMPLETION = "_LM_COMPLETE"  # set by the script of `lm completion`


def main() -> None:
    """Entry point. Ctrl-C ends it with one word, even while it is still being imported."""
    _open_streams()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # at exit it would be too late to say anything
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except BrokenPipeError as error:
        # The reader (head, grep -q) has left: that is no error of ours.
        _discard()
        sys.exit(getattr(error, "code", 0))
    except OSError as error:
        _discard()
        print(f"error: cannot write to standard output: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def _open_streams() -> None:
    """Make standard input, output and error usable. A closed one would be the number of the next file that is opened,
    and what is printed would end in the ledger; text that the terminal's encoding lacks must not end a command."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _discard() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's own flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> int:
    from lmstack.cli.words import wants_json

    if wants_json(sys.argv[1:]):
        print(
            '{"command": "lm", "ok": false, "data": {"error": "interrupted", "hint": "", "problems": []}, "messages": []}'
        )
    else:
        print("interrupted", file=sys.stderr)
    return 1


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
