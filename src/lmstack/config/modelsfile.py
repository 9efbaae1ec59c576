"""Changes budgets in a user's models.yaml and keeps every other byte. Pure: text in, text out.

The positions come from the parser that reads the file. Each new text is read again before it is returned.
"""

import json
import re
from typing import Any

import yaml

from lmstack.config.rules import SCOPES
from lmstack.config.yamlrules import CORE, parse_yaml
from lmstack.errors import ConfigError, LmError

BOM = "\ufeff"
_PLAIN = re.compile(r"[A-Za-z][\w.-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def set_budget(text: str, scope: str, name: str, period: str, usd: float | None) -> str:
    """Return ``text`` with one amount of ``budgets`` set, in US dollars. Without ``usd`` it is removed.

    ``scope`` is all, task or agent. Raises ConfigError when the text cannot be read, and LmError when the edit would
    change anything else, for example through an anchor.
    """
    section = next(key for key, value in SCOPES.items() if value == scope)
    path = ["budgets", section, *([] if scope == "all" else [name]), period]
    impossible = LmError(
        f"cannot change {'.'.join(path)} in models.yaml without changing more", "edit the file by hand"
    )
    try:
        wanted = _changed(_values(text), path, usd)
    except (AttributeError, TypeError):  # something else is written where the mapping should be
        raise impossible from None
    try:
        # The C parser does not count the byte order mark in its positions.
        body = text.removeprefix(BOM)
        new = text[: len(text) - len(body)] + _edited(body, path, usd)
        right = _values(new) == wanted
    except (yaml.YAMLError, ConfigError, RecursionError):
        right = False
    if not right:
        raise impossible
    return new


def _values(text: str) -> Any:
    """Return the values of a text. No two places share one mapping, as they would with anchors."""
    return json.loads(json.dumps(parse_yaml(text, "models.yaml")[1] or {}))


def _changed(root: Any, path: list[str], usd: float | None) -> Any:
    """Return what the file must say after the edit."""
    places = [root]
    for key in path[:-1]:
        if places[-1].get(key) is None:
            if usd is None:
                return root
            places[-1][key] = {}
        places.append(places[-1][key])
    if usd is not None:
        places[-1][path[-1]] = usd
        return root
    places[-1].pop(path[-1], None)
    for place, key in zip(reversed(places[:-1]), reversed(path[:-1]), strict=True):
        if not place[key]:
            del place[key]
    return root


def _edited(text: str, path: list[str], usd: float | None) -> str:
    nodes: list[Any] = [yaml.compose(text, Loader=CORE)]
    pairs: list[Any] = []
    for key in path:
        pair = _pair(nodes[-1], key)
        if pair is None:
            break
        pairs.append(pair)
        nodes.append(pair[1])
    if usd is None:
        return _without(text, nodes, pairs) if len(pairs) == len(path) else text
    if len(pairs) == len(path):
        return text[: nodes[-1].start_mark.index] + f"{usd:.15g}" + text[nodes[-1].end_mark.index :]
    return _with(text, nodes[-1], pairs, path[len(pairs) :], f"{usd:.15g}")


def _pair(node: Any, key: str) -> Any:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((pair for pair in pairs if pair[0].value == key), None)


def _with(text: str, node: Any, pairs: list[Any], keys: list[str], amount: str) -> str:
    """Return the text with the missing ``keys`` added to the deepest mapping of the path that exists."""
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        added = "".join(f"{_key(key)}: {{" for key in keys[:-1]) + f"{_key(keys[-1])}: {amount}" + "}" * (len(keys) - 1)
        if not node.value:
            return text[: node.start_mark.index + 1] + added + text[node.end_mark.index - 1 :]
        end = _end(node.value[-1][1])
        return f"{text[:end]}, {added}{text[end:]}"
    newline = "\r\n" if "\r\n" in text else "\n"
    if isinstance(node, yaml.MappingNode):
        column, place = node.value[0][0].start_mark.column, _line_end(text, _end(node))
    else:
        column = pairs[-1][0].start_mark.column + 2 if pairs else 0
        place = _line_end(text, pairs[-1][0].end_mark.index) if pairs else len(text)
    if not pairs:
        place = len(text)
    lines = [f"{' ' * (column + 2 * depth)}{_key(key)}:" for depth, key in enumerate(keys)]
    before = newline if text[:place] and not text[:place].endswith("\n") else ""
    return text[:place] + before + newline.join(lines) + f" {amount}{newline}" + text[place:]


def _without(text: str, nodes: list[Any], pairs: list[Any]) -> str:
    """Return the text without the last pair, and without each mapping that would be empty then."""
    depth = len(pairs) - 1
    while depth and len(nodes[depth].value) == 1:
        depth -= 1
    mapping, (key, value) = nodes[depth], pairs[depth]
    start, end = key.start_mark.index, _end(value)
    if not mapping.flow_style:
        return text[: text.rfind("\n", 0, start) + 1] + text[_line_end(text, end) :]
    place = mapping.value.index(pairs[depth])
    if place + 1 < len(mapping.value):
        return text[:start] + text[mapping.value[place + 1][0].start_mark.index :]
    return text[: _end(mapping.value[place - 1][1])] + text[end:] if place else text[:start] + text[end:]


def _end(node: Any) -> int:
    """Return where the last value of a node ends. The end mark of a block is only after the comments below it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _key(text: str) -> str:
    """Return a key, in quotes where a YAML reader could take it for something else than text."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text)
