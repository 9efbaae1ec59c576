"""Changes of a user's models.yaml. Pure: text in, text out. Only the section that is changed is written anew; every other
byte stays, and within the section its comments and its order."""

import io
from typing import Any

import yaml

from lmstack.config.rules import SCOPES
from lmstack.errors import ConfigError


def set_budget(text: str, scope: str, name: str, period: str, usd: float | None) -> str:
    """``budgets`` with one amount (US dollars) set, or with None taken out; ``scope``: all, task or agent. ConfigError
    when the section uses an alias of another one."""
    before, section, after = _split(text, "budgets")
    if not section and usd is None:
        return text
    end = "\r\n" if "\r\n" in text else "\n"
    new = _changed(section, scope, name, period, usd).replace("\n", end)
    if not section and before and not before.endswith(("\n", "\r")):
        before += end
    return before + new + after


def _split(text: str, key: str) -> tuple[str, str, str]:
    """The text before a top-level section, the section, and the text after it; the section is "" when there is none."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    starts = [pair[0].start_mark.line for pair in pairs]
    place = next((n for n, (name, _) in enumerate(pairs) if name.value == key), None)
    if place is None:
        return text, "", ""
    lines = text.splitlines(keepends=True)
    begin = starts[place]
    end = min((line for line in starts if line > begin), default=len(lines))
    # Comments and blank lines at the margin above the next section belong to that one.
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    return "".join(lines[:begin]), "".join(lines[begin:end]), "".join(lines[end:])


def _changed(section: str, scope: str, name: str, period: str, usd: float | None) -> str:
    """The new text of the section ``budgets``; "" when nothing is left in it."""
    editor = _editor()
    root = _loaded(editor, section)
    if not root.get("budgets"):
        root["budgets"] = {}
    group = next(key for key, value in SCOPES.items() if value == scope)
    path = [group] if scope == "all" else [group, name]
    if usd is None:
        _take_out(root["budgets"], [*path, period])
    else:
        _put_in(root["budgets"], path, period, usd)
    if not root["budgets"]:
        return ""
    out = io.StringIO()
    editor.dump(root, out)
    return out.getvalue()


def _loaded(editor: Any, section: str) -> Any:
    from ruamel.yaml.error import YAMLError

    try:
        return editor.load(section) or {}
    except YAMLError as error:
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(
            f"models.yaml: the section 'budgets' cannot be edited by itself: {what}",
            "edit it by hand, then: lm validate",
        ) from None


def _put_in(budgets: Any, path: list[str], period: str, usd: float) -> None:
    for key in path:
        if not budgets.get(key):
            budgets[key] = {}
        budgets = budgets[key]
    # Text: nothing is resolved here, so that all else stays as it was typed.
    budgets[period] = f"{usd:.10g}"


def _take_out(mapping: Any, path: list[str]) -> None:
    """Remove a value, and every mapping that is empty then."""
    if path[0] not in mapping:
        return
    if len(path) > 1 and mapping[path[0]]:
        _take_out(mapping[path[0]], path[1:])
    if len(path) == 1 or not mapping[path[0]]:
        del mapping[path[0]]


def _editor() -> Any:
    # Imported where it is used: it is slow to load, and two commands need it.
    from ruamel.yaml import YAML
    from ruamel.yaml.resolver import VersionedResolver

    class AsTyped(VersionedResolver):
        """Takes every plain scalar as text: ``on``, ``0123`` and ``1:30`` are written back as they were."""

        @property
        def versioned_resolver(self) -> Any:
            return {}

    editor = YAML()
    editor.Resolver = AsTyped
    editor.preserve_quotes = True
    editor.width = 1000
    return editor
