"""Random edits of .env and models.yaml keep every byte that was not edited, and all programs read the same value.

The texts come from seeded generators, so a failure can be repeated. LMSTACK_EXAMPLES=10000 runs as many edits as the issue
asked for.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from dotenv import dotenv_values

from lmstack import files
from lmstack.config.compose_env import read_as_compose
from lmstack.config.envfile import parse_env, quote, set_line, unset_line
from lmstack.config.modelsfile import set_budget
from lmstack.config.yamlrules import load_yaml
from lmstack.errors import LmError, UsageError

EXAMPLES = int(os.environ.get("LMSTACK_EXAMPLES", "300"))
BOM = "\ufeff"


def examples() -> Iterator[Random]:
    """One generator of random choices for each example; its seed is the number of the example."""
    for number in range(EXAMPLES):
        yield Random(number)  # noqa: S311 - not for secrets


# --- .env ---

NAMES = ("A", "OPENAI_API_KEY", "LITELLM_PORT", "MY_KEY", "B2")
# What people paste, and what breaks parsers.
WORDS = (
    "sk-1",
    " ",
    "#",
    "'",
    '"',
    "\\",
    "$",
    "${A}",
    "=",
    "é",
    "a#b",
    "`",
    "!",
    "\t",
    "\\n",
    "$$",
    "x y",
    "%",
    "\n",
    "\r",
)
WRITTEN = (
    "1", "", "a=b c", "'single # no'", '"double # no"', "'it\\'s'", '"a \\" b"', "'first\nsecond'", '"one\n# no comment\n\nlast"',
    "'end\\\\'", '"$x"',
)  # fmt: skip
HEADS = ("{}=", "export {}=", "{} = ", "  {}=", "\t{}=\t", "'{}'=")


def words(random: Random, most: int) -> str:
    return "".join(random.choices(WORDS, k=random.randint(0, most)))


def comment(random: Random) -> str:
    return words(random, 4).replace("\n", "").replace("\r", "")


class Piece(NamedTuple):
    """A piece of a .env text: its name (None for what is no assignment), what stands before its comment, its comment."""

    name: str | None
    text: str
    comment: str = ""


def piece(random: Random) -> Piece:
    kind = random.randrange(6)
    if kind == 0:
        return Piece(None, "")
    if kind == 1:
        return Piece(None, random.choice(("# ", "  # ")) + comment(random))
    name, value, sign = random.choice(NAMES), random.choice(WRITTEN), random.choice(("", " # ", "  #", "\t# "))
    text = random.choice(HEADS).format(name) + value
    return Piece(name, text, sign + comment(random) if sign and value else "")


class EnvText(NamedTuple):
    """A whole text as its pieces; the end of each line is in the piece."""

    bom: str
    pieces: list[tuple[Piece, str]]

    @property
    def text(self) -> str:
        return self.bom + "".join(text for _, text in self.pieces)


def env_text(random: Random) -> EnvText:
    end = random.choice(("\n", "\r\n"))
    pieces = [piece(random) for _ in range(random.randint(0, 8))]
    made = [(one, (one.text + one.comment).replace("\n", end) + end) for one in pieces]
    if made and random.random() < 0.5:  # the last line has no end
        made[-1] = (made[-1][0], made[-1][1].removesuffix(end))
    return EnvText(random.choice(("", BOM)), made)


def on_disk(folder: Path, text: str, mode: int, kind: str) -> tuple[Path, Path]:
    """Write a text into a file of that kind; return the path that is edited and the one that holds the bytes."""
    for path in folder.iterdir():
        path.unlink()
    real, path = folder / "real", folder / ".env"
    real.write_bytes(text.encode())
    real.chmod(mode)
    if kind == "plain":
        return real, real
    if kind == "hard":
        path.hardlink_to(real)
    elif kind == "link":
        path.symlink_to("real")
    else:
        path.symlink_to("second")
        (folder / "second").symlink_to(real)
    return path, real


def test_an_edit_of_env_changes_the_bytes_of_one_assignment(tmp_path: Path) -> None:
    refused = 0
    for random in examples():
        env, name, value = env_text(random), random.choice(NAMES), words(random, 6)
        expected = env.bom + "".join(text for one, text in env.pieces if one.name != name)
        assert unset_line(env.text, name) == expected
        try:
            after = set_line(env.text, name, value)
        except UsageError:
            refused += 1
            assert "$" in value, "only a value with $ may have no form that all programs read alike"
            continue
        check_bytes(env, name, after)
        check_values(env, name, value, after)
        check_file(tmp_path, random, env.text, after)
    assert refused < EXAMPLES / 5


def check_file(folder: Path, random: Random, before: str, after: str) -> None:
    """A written file keeps its link, its inode where it has a second name, and its mode, but is closed to strangers."""
    mode, kind = random.choice((0o600, 0o640, 0o660, 0o644)), random.choice(("plain", "link", "chain", "hard"))
    path, real = on_disk(folder, before, mode, kind)
    inode = real.stat().st_ino
    files.write(path, after, files.PRIVATE)
    assert real.read_bytes() == after.encode()
    assert path.is_symlink() is (kind in ("link", "chain"))
    assert stat.S_IMODE(real.stat().st_mode) == (mode & ~0o007 if after != before else mode)
    assert kind != "hard" or real.stat().st_ino == path.stat().st_ino == inode
    ours = {key: entry.value for key, entry in parse_env(after).items()}
    assert {k: v or "" for k, v in dotenv_values(path, interpolate=False, encoding="utf-8-sig").items()} == ours


def check_values(env: EnvText, name: str, value: str, after: str) -> None:
    """The edited value is read alike by all, no other value has changed, and an edit back gives the same bytes."""
    ours = {key: entry.value for key, entry in parse_env(after).items()}
    assert ours[name] == value
    check_compose(after, name, value)
    others = {key: entry.value for key, entry in parse_env(env.text).items() if key != name}
    assert {key: text for key, text in ours.items() if key != name} == others
    assert set_line(set_line(after, name, "x"), name, value) == set_line(after, name, value)


def check_bytes(env: EnvText, name: str, after: str) -> None:
    """Every byte outside the last assignment of ``name`` is as it was, and so is the comment behind it."""
    places = [place for place, (piece, _) in enumerate(env.pieces) if piece.name == name]
    if not places:
        assert after.startswith(env.text)
        return
    texts = [text for _, text in env.pieces]
    before, behind = env.bom + "".join(texts[: places[-1]]), "".join(texts[places[-1] + 1 :])
    piece, text = env.pieces[places[-1]]
    end = text[len(text.rstrip("\r\n")) :]
    assert after.startswith(before)
    assert after.endswith(piece.comment + end + behind)
    assert name in after[len(before) :].partition("=")[0]


def check_compose(after: str, name: str, value: str) -> None:
    """Docker Compose reads the edited assignment alike. Other lines of the text may be wrong for it."""
    line = next(entry.line for entry in parse_env(after).values() if entry.name == name)
    rest = after.removeprefix(BOM).replace("\r\n", "\n").split("\n", line - 1)[-1]
    for count in range(1, rest.count("\n") + 2):
        part = "\n".join(rest.split("\n")[:count])
        try:
            if list(parse_env(part)) == [name] and parse_env(part)[name].value == value:
                assert read_as_compose(part) == {name: value}
                return
        except LmError:
            continue
    raise AssertionError(f"the assignment is not found in {rest!r}")


def test_a_written_value_has_one_meaning(tmp_path: Path) -> None:
    for random in examples():
        value = words(random, 6)
        try:
            text = f"A={quote(value)}\n"
        except UsageError:
            assert "$" in value
            continue
        assert parse_env(text)["A"].value == value
        assert read_as_compose(text) == {"A": value}
        (tmp_path / "one").write_bytes(text.encode())
        assert dotenv_values(tmp_path / "one", interpolate=False) == {"A": value}


# --- models.yaml ---

IDS = (
    "on",
    "yes",
    "1:30",
    "0123",
    "1e3",
    "null",
    "~",
    "2026-11-24",
    "0x10",
    "TM-42",
    "a: b",
    "# x",
    "é",
    "12",
    "x y",
    "<<",
)
AMOUNTS = ("1", "0.5", "1e-2", "5.00", "0")
SCOPE_OF = {"all": "all", "tasks": "task", "agents": "agent"}
OTHER_SECTIONS = (
    "models:  # these\n    my-model: {provider: openai, model: gpt-4o, tier: 1}\n",
    "models:\n  a: &m\n    provider: openai  # why\n    tier: 1\n  b:\n    <<: *m\n    tier: 2\n",
    "x-limits: &low {day: 3}\n",
    "x-more: &high\n  day: 7   # seven\n  total: 70\n",
    "x-text: |\n  budgets:\n    all: {day: 1}\n",
    "x-folded: >-\n  one\n\n  two # no comment\n",
    "x-quoted: 'it''s\n  two lines'\n",
    'x-double: "a\\n\\u00e9 # no"\n',
    "routing:\n  tasks:\n    T: {tier: cheap}\n",
    "# a comment\n",
    "\n",
    "#budgets: {all: {day: 1}}\n",
)


def key(name: str) -> str:
    """Write a name as a user would: in quotes where YAML needs them."""
    return f'"{name}"' if name in ("a: b", "# x", "~", "<<") else name


def limits(random: Random, indent: str, anchors: list[str]) -> str:
    """The limits of one name, behind its colon. A new anchor is added to ``anchors``, for the names below."""
    day, total = random.choice(AMOUNTS), random.choice((None, *AMOUNTS))
    end = random.choice(("", "  # mine", " #"))
    kind = random.choice(("flow", "block", "anchored", *(("alias", "merge") if anchors else ())))
    if kind == "flow":
        return f" {{day: {day}{f', total: {total}' if total else ''}}}{end}\n"
    if kind == "alias":
        return f" *{random.choice(anchors)}{end}\n"
    lines = [f"day: {day}{end}", *([f"total:   {total}"] if total else [])]
    lines += [f"<<: *{random.choice(anchors)}"] if kind == "merge" else []
    anchor = ""
    if kind == "anchored":
        anchors.append(f"own{len(anchors)}")
        anchor = f" &{anchors[-1]}"
    return f"{anchor}\n" + "".join(f"{indent}{line}\n" for line in lines)


def budget_section(random: Random, anchors: list[str]) -> str:
    """A whole section ``budgets``."""
    if random.random() < 0.1:
        return random.choice(
            ("budgets:\n", "budgets: {}\n", "budgets:   # none yet\n", "budgets: {all: {day: 5}} # d\n")
        )
    step = " " * random.choice((1, 2, 4))
    text = "budgets:\n"
    for section in random.sample(("all", "tasks", "agents"), random.randint(1, 3)):
        if section == "all":
            text += f"{step}all:{limits(random, step * 2, anchors)}"
            continue
        text += f"{step}{section}:\n"
        for name in random.sample(IDS, random.randint(1, 3)):
            text += random.choice(("", f"{step * 2}# about the next one\n"))
            text += f"{step * 2}{key(name)}:{limits(random, step * 3, anchors)}"
    return text


def models_text(random: Random) -> tuple[str, str, str]:
    """A text in three parts: before the section budgets, the section (or nothing), and behind it."""
    before, behind, heads = [], [], set[str]()
    for place in range(random.randint(0, 6)):
        part = random.choice(OTHER_SECTIONS)
        head = part.partition(":")[0]
        if part.startswith(("#", "\n")) or head not in heads:
            heads.add(head)
            (before if place < 4 else behind).append(part)
    anchors = [name for name in ("low", "high") if any(f"&{name}" in part for part in before)]
    section = budget_section(random, anchors) if random.random() < 0.8 else ""
    parts = ["".join(before), section, "".join(behind)]
    if random.random() < 0.2:
        parts[0] = "---\n" + parts[0]
    if random.random() < 0.5:
        parts = [part.replace("\n", "\r\n") for part in parts]
    if random.random() < 0.2:
        parts[0] = BOM + parts[0]
    return parts[0], parts[1], parts[2]


def limit_path(random: Random) -> tuple[str, str, str, list[str]]:
    """The scope, name and period of a limit, and its path in the file."""
    section, name, period = random.choice(tuple(SCOPE_OF)), random.choice(IDS), random.choice(("day", "total"))
    return SCOPE_OF[section], name, period, ["budgets", section, *([] if section == "all" else [name]), period]


def without_limit(root: Any, path: list[str]) -> Any:
    """The value of a file with one amount removed, and each mapping that is empty then."""
    if len(path) == 1:
        return {k: v for k, v in root.items() if k != path[0]}
    inner = without_limit(root.get(path[0]) or {}, path[1:])
    return {k: (inner if k == path[0] else v) for k, v in root.items() if k != path[0] or inner}


def is_subsequence(lines: list[str], of: list[str]) -> bool:
    rest = iter(of)
    return all(line in rest for line in lines)


def at(root: Any, path: list[str]) -> Any:
    for step in path:
        root = root.get(step) if isinstance(root, dict) else None
    return root


def test_a_budget_edit_keeps_every_byte_outside_its_limit() -> None:
    refused = 0
    for random in examples():
        parts, (scope, name, period, path) = models_text(random), limit_path(random)
        usd = random.choice((None, 0.0, 0.25, 2, 1e-6, 1e6))
        root = load_yaml("".join(parts)) or {}
        try:
            after = set_budget("".join(parts), scope, name, period, usd)
        except LmError:
            refused += 1
            assert "*" in parts[1] or "&" in parts[1], "only anchors and aliases may make an edit impossible"
            continue
        check_outside(parts, after)
        new = load_yaml(after) or {}
        assert at(new, path) == usd
        if usd is None and at(root, path) is None:
            assert after == "".join(parts)
            continue
        assert without_limit(new, path) == without_limit(root, path)
        if usd is None:
            check_removed(parts, after)
        else:
            check_added(parts, after)
    assert refused < EXAMPLES / 2


def check_added(parts: tuple[str, str, str], after: str) -> None:
    old, new = parts[1].splitlines(True), within(parts, after).splitlines(True)
    assert is_subsequence([line for line in old if line.lstrip().startswith("#")], new)
    changed = [line for line in old if line not in new]
    assert len(changed) <= 1, "only the line with the amount, or the mapping that it is added to, is another"


def check_removed(parts: tuple[str, str, str], after: str) -> None:
    new = within(parts, after).splitlines(True)
    kept = [line for line in new if line not in parts[1].splitlines(True)]
    assert is_subsequence([line for line in new if line not in kept], parts[1].splitlines(True))
    assert len(kept) <= 1
    assert all("{" in line for line in kept), "only a mapping in braces is written anew"


def within(parts: tuple[str, str, str], after: str) -> str:
    """What became of the section budgets."""
    return after[len(parts[0]) : len(after) - len(parts[2])] if parts[1] else ""


def check_outside(parts: tuple[str, str, str], after: str) -> None:
    """What stands before and behind the section budgets is there byte for byte."""
    before, section, behind = parts
    if section:
        assert after.startswith(before)
        assert after.endswith(behind)
    else:
        assert after.startswith("".join(parts))
