"""The command ``lm``.

Help comes from generated pages: importing Typer would take most of the time. `make docs` writes the pages, and a test
compares them with what Typer prints.
"""

import os
import sys

# Only these imports: Ctrl-C is first caught inside main(). The import of pathlib takes longer than everything above.

COMPLETION = "_LM_COMPLETE"  # set by the script of `lm completion`


def main() -> None:
    """Run lm. Ctrl-C ends it without a traceback, also while modules are imported."""
    _open_streams()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # here, because an error at exit could not be reported
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except BrokenPipeError as error:
        # The reader (head, grep -q) has closed the pipe. That is not an error.
        _discard()
        sys.exit(getattr(error, "code", 0))
    except OSError as error:
        _discard()
        print(f"error: cannot write to standard output: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def _open_streams() -> None:
    """Make standard input, output and error usable.

    If one is closed, the next file that is opened gets its number, and our output would go into that file. Characters
    that the terminal's encoding lacks are replaced.
    """
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
    """Throw buffered output away, so that the interpreter's flush at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> int:
    """Report Ctrl-C and return the exit code."""
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
    wants_help = not words or words[-1] in ("--help", "-h")
    if wants_help and COMPLETION not in os.environ:
        page = _page(" ".join(words[:-1]))
        if page is not None:
            sys.stdout.write(page)
            # A command line without a command is wrong usage.
            sys.exit(0 if words else 2)
    from lmstack.cli.app import main as run

    run()


def _page(name: str) -> str | None:
    """Return the help page of a command; None when there is none."""
    import json
    from pathlib import Path

    path = Path(__file__).with_name("help.json")
    if not path.exists():
        return None

    found = json.loads(path.read_text(encoding="utf-8")).get(name)
    return found if isinstance(found, str) else None


if __name__ == "__main__":
    main()
