"""Read the command line before Typer does: the command, --json, and where the program of `lm run` begins. Pure.

Typer stops at the first error, but --json must be known even then. Imports nothing of lmstack.
"""

from collections.abc import Iterable, Sequence

# The options that every command and every group takes, and whether a value follows.
SHARED = {"--json": False, "--quiet": False, "-q": False, "--dir": True, "-C": True}
_RUN = {**SHARED, "--model": True, "-m": True, "--key": True, "--help": False, "-h": False}


def command_word(argv: Sequence[str]) -> str | None:
    """Return the first word that is no shared option; None when there is none, or an unknown option comes first."""
    rest = argv[_count_options(argv, SHARED) :]
    return rest[0] if rest and not rest[0].startswith("-") else None


def own_words(argv: Sequence[str]) -> list[str]:
    """Return the words for lm itself: up to ``--``, and for `lm run` up to the words of the program."""
    at = _count_options(argv, SHARED)
    if argv[at : at + 1] == ["run"]:
        own, _, _ = split_run(argv[at + 1 :])
        return [*argv[: at + 1], *own]
    end = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:end])


def wants_json(argv: Sequence[str]) -> bool:
    """Return whether the result, or a usage error, must be printed as JSON."""
    return "--json" in own_words(argv)


def split_run(args: Sequence[str], programs: Iterable[str] | None = None) -> tuple[list[str], list[str], list[str]]:
    """Split the arguments of `lm run` into options of lm, the client (one word or none), and the program's words.

    Every word after the client belongs to the program, with two exceptions that keep older calls working. Options of lm
    right after the client are for lm when ``--`` ends them. They are also for lm when the client has no program of its
    own: it is not in ``programs``. No program's name begins with a dash.
    """
    at = _count_options(args, _RUN)
    own, rest = list(args[:at]), list(args[at:])
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if not rest:
        return own, [], []
    client, rest = rest[0], rest[1:]
    more = _count_options(rest, _RUN)
    if more and (rest[more : more + 1] == ["--"] or (programs is not None and client not in programs)):
        own, rest = [*own, *rest[:more]], rest[more:]
    return own, [client], rest[1:] if rest[:1] == ["--"] else rest


def _count_options(words: Sequence[str], known: dict[str, bool]) -> int:
    """Return how many words at the beginning are ``known`` options and their values."""
    at = 0
    while at < len(words) and (count := _words_of_option(words[at], known)):
        at += count
    return min(at, len(words))


def _words_of_option(word: str, known: dict[str, bool]) -> int:
    """Return how many words an option takes with its value (-C DIR, -CDIR, -qC DIR); 0 when it is not ``known``."""
    if word.startswith("--"):
        name, with_value, _ = word.partition("=")
        return 0 if name not in known or name == "--" else 1 if with_value or not known[name] else 2
    if not word.startswith("-"):
        return 0
    for place, letter in enumerate(word[1:], 2):
        if f"-{letter}" not in known:
            return 0
        if known[f"-{letter}"]:
            return 1 if word[place:] else 2
    return 1 if len(word) > 1 else 0
