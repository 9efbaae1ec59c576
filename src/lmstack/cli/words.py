"""Read the command line before Typer does: which command, whether as JSON, and where the words of `lm run` begin. Pure.

Typer stops at the first mistake. What must be known even then (--json) is read here. Imports nothing of lmstack.
"""

from collections.abc import Iterable, Sequence

# The options that every command and every group takes, and whether a value follows.
SHARED = {"--json": False, "--quiet": False, "-q": False, "--dir": True, "-C": True}
_RUN = {**SHARED, "--model": True, "-m": True, "--help": False, "-h": False}


def command_word(argv: Sequence[str]) -> str | None:
    """The first word that is no shared option; None when there is none or an unknown option comes first."""
    rest = argv[_ours(argv, SHARED) :]
    return rest[0] if rest and not rest[0].startswith("-") else None


def own_words(argv: Sequence[str]) -> list[str]:
    """The words that are for lm: up to ``--``, for `lm run` up to the client's program."""
    at = _ours(argv, SHARED)
    if argv[at : at + 1] == ["run"]:
        own, _, _ = split_run(argv[at + 1 :])
        return [*argv[: at + 1], *own]
    end = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:end])


def wants_json(argv: Sequence[str]) -> bool:
    """Whether the answer, also a usage error, must be JSON."""
    return "--json" in own_words(argv)


def split_run(args: Sequence[str], programs: Iterable[str] | None = None) -> tuple[list[str], list[str], list[str]]:
    """The arguments of `lm run` as options of ours, the client (one word or none), and the program's words.

    After the client every word is the program's. Two exceptions keep older calls working: our options right after the
    client are ours when ``--`` ends them, or when the client starts no ``programs`` of its own, because no program's
    name begins with a dash.
    """
    at = _ours(args, _RUN)
    own, rest = list(args[:at]), list(args[at:])
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if not rest:
        return own, [], []
    client, rest = rest[0], rest[1:]
    more = _ours(rest, _RUN)
    if more and (rest[more : more + 1] == ["--"] or (programs is not None and client not in programs)):
        own, rest = [*own, *rest[:more]], rest[more:]
    return own, [client], rest[1:] if rest[:1] == ["--"] else rest


def _ours(words: Sequence[str], known: dict[str, bool]) -> int:
    """How many words at the beginning are ``known`` options and their values."""
    at = 0
    while at < len(words) and (taken := _taken(words[at], known)):
        at += taken
    return min(at, len(words))


def _taken(word: str, known: dict[str, bool]) -> int:
    """How many words an option takes with its value, 0 when it is none of the ``known``: -C DIR, -CDIR, -qC DIR."""
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
