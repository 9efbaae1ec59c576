"""Finds the prose in a file: paragraphs of Markdown, and docstrings, comments and messages of Python.

Code is left out. Text in backticks becomes one word, and code blocks are dropped.
"""

import ast
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

CODE = "`code`"
MARKDOWN = MarkdownIt("commonmark").enable("table")
# A string of four words or more that begins with a letter is read as a message, unless it is code.
MESSAGE = re.compile(r"[A-Za-z`][^\n]*(?:\s+\S+){3}", re.DOTALL)
NO_MESSAGE = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|BEGIN|FROM|WHERE|ORDER BY|ON CONFLICT)\b|\(\?|\\[bdsw]|\|\w+\|"
    r"|^(from|import|def|class|bash|sh|export|exec) \S+$|^\S+=\S+|#compdef",
)


@dataclass(frozen=True)
class Passage:
    """A piece of prose: where it begins, what it is, and its words on one line."""

    line: int
    kind: str  # docs, docstring, comment or message
    text: str
    of: str = ""  # a docstring's owner: module, class, function or property


def passages(path: Path) -> list[Passage]:
    """Return the prose of a Markdown or Python file, in its order."""
    text = path.read_text(encoding="utf-8")
    found = list(markdown_passages(text) if path.suffix == ".md" else python_passages(text))
    return sorted(found, key=lambda p: p.line)


def markdown_passages(text: str) -> Iterator[Passage]:
    """Yield each paragraph, heading, list item and table cell."""
    line = 1
    for token in MARKDOWN.parse(text):
        if token.map:
            line = token.map[0] + 1
        if token.type == "inline":
            yield Passage(line, "docs", _words_of(token))


def _words_of(token: Token) -> str:
    parts = []
    for child in token.children or ():
        if child.type == "code_inline":
            parts.append(CODE)
        elif child.type in ("text", "softbreak", "hardbreak"):
            parts.append(child.content or " ")
    return _one_line("".join(parts))


def python_passages(source: str) -> Iterator[Passage]:
    """Yield docstrings, comments and messages."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                constant = node.body[0].value  # type: ignore[attr-defined]
                docstrings.add(constant)
                yield from _paragraphs(constant.lineno, text, _owner(node))
    yield from _comments(source)
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if node in docstrings or node in inside:
            continue
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield from _messages(node)


def _owner(node: ast.AST) -> str:
    if isinstance(node, ast.Module | ast.ClassDef):
        return "module" if isinstance(node, ast.Module) else "class"
    names = [ast.unparse(d) for d in node.decorator_list]  # type: ignore[attr-defined]
    return "property" if any("property" in name for name in names) else "function"


def _paragraphs(line: int, text: str, owner: str) -> Iterator[Passage]:
    """Yield a docstring's paragraphs; only the first one belongs to its owner's name."""
    offset = 0
    for number, block in enumerate(re.split(r"\n\s*\n", text)):
        if not re.match(r"\s{4,}|[-*] |>>> ", block):
            yield Passage(line + offset, "docstring", _plain(block), owner if number == 0 else "")
        offset += block.count("\n") + 2


def _comments(source: str) -> Iterator[Passage]:
    """Yield comments; lines of one comment are joined."""
    begin, last, words = 0, 0, ""
    lines = iter(source.splitlines(keepends=True))
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        if token.type != tokenize.COMMENT or re.match(r"#(!|\s*(type: ignore|noqa|pragma))", token.string):
            continue
        row, text = token.start[0], token.string.lstrip("# ")
        alone = not token.line[: token.start[1]].strip()
        if words and alone and row == last + 1:
            words += " " + text
        else:
            if words:
                yield Passage(begin, "comment", _plain(words))
            begin, words = row, text
        last = row if alone else 0
    if words:
        yield Passage(begin, "comment", _plain(words))


def _messages(node: ast.expr) -> Iterator[Passage]:
    if isinstance(node, ast.Constant):
        text = str(node.value)
    else:
        parts = node.values  # type: ignore[attr-defined]
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else CODE for part in parts)
    if MESSAGE.match(text) and not NO_MESSAGE.search(text):
        for paragraph in re.split(r"\n+", text):
            yield Passage(node.lineno, "message", _plain(paragraph))


def _plain(text: str) -> str:
    """Replace code in backticks by one word, and drop links."""
    text = re.sub(r"``?[^`]+``?", CODE, text)
    return _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
