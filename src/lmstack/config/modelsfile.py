"""Changes to a user's models.yaml that keep every other byte. Pure: text in, text out.

The places come from the parser that reads the file, so that what is written is what is read.
"""

import copy
import json
import re
from typing import Any

import yaml

from lmstack.config.rules import SCOPES
from lmstack.config.yamlfile import load_yaml
from lmstack.errors import LmError

_PLAIN = re.compile(r"[A-Za-z][\w.-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def set_budget(text: str, scope: str, name: str, period: str, usd: float | None) -> str:
    """``budgets`` with one amount (US dollars) set, or with None taken out; ``scope``: all, task or agent."""
    section = next(key for key, value in SCOPES.items() if value == scope)
    path = ["budgets", section, *([] if scope == "all" else [name]), period]
    try:
        wanted = _changed(load_yaml(text) or {}, path, usd)
        new = _edited(text, path, usd)
        right = (load_yaml(new) or {}) == wanted
    except (yaml.YAMLError, RecursionError):
        right = False
    if not right:
        raise LmError(f"cannot change {'.'.join(path)} in models.yaml without changing more", "edit the file by hand")
    return new


def _changed(root: Any, path: list[str], usd: float | None) -> Any:
    """What the file must say afterwards."""
    root = copy.deepcopy(root)
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
    nodes: list[Any] = [yaml.compose(text, Loader=yaml.SafeLoader)]
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
    """The missing ``keys`` added to the deepest mapping that is there."""
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
    before = newline if text[:place].strip("\ufeff") and not text[:place].endswith("\n") else ""
    return text[:place] + before + newline.join(lines) + f" {amount}{newline}" + text[place:]


def _without(text: str, nodes: list[Any], pairs: list[Any]) -> str:
    """The last pair taken out, and each mapping that would be empty then."""
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
    """Where the last value of a node ends; a block's own mark stands after the comments below it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _key(text: str) -> str:
    """Quoted where any YAML reader could take it for something else than text."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text)
