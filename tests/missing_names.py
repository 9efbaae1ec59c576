"""Hide private names of LiteLLM from lmstack's gateway, and from nothing else: LiteLLM itself needs them."""

from collections.abc import Iterable
from pathlib import Path

from lmstack.gateway.stock.uses import USES, Use

# Attributes of the running router belong to these classes.
_ROUTER, _COOLDOWNS = ("litellm.router", "Router"), ("litellm.router_utils.cooldown_cache", "CooldownCache")

SEAM = """
import importlib.abc, importlib.util, sys
HIDDEN = {hidden!r}   # (module, class or "", attribute)
def is_gateway(folder):
    return folder in sys._getframe(2).f_code.co_filename
def hiding(kind, names, folder):
    plain = kind.__getattribute__
    def get(self, name):
        if name in names and is_gateway(folder):
            raise AttributeError(name)
        return plain(self, name)
    return get
def hide(module):
    # A public class of httpx is hidden for the sake of its private method: all but the look-up may use the class.
    folder = "/lmstack/gateway/stock/" if module.__name__ == "httpx" else "/lmstack/gateway/"
    for owner in {{owner for name, owner, _ in HIDDEN if name == module.__name__}}:
        names = {{attribute for name, kind, attribute in HIDDEN if (name, kind) == (module.__name__, owner)}}
        if owner:
            kind = getattr(module, owner)
            kind.__getattribute__ = hiding(kind, names, folder)
        else:
            kind = type(module)
            module.__class__ = type("Hiding", (kind,), {{"__getattribute__": hiding(kind, names, folder)}})
class Finder(importlib.abc.MetaPathFinder):
    def __init__(self):
        self.waiting = {{module for module, _, _ in HIDDEN}}
    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting:
            return None
        self.waiting.discard(name)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            hide(module)
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
"""


def owner_of(use: Use) -> tuple[str, str, str]:
    """Return module, class ("" for a member of the module) and attribute to hide. A class itself is hidden in its module."""
    if not use.place.startswith("router."):
        module, _, path = use.place.partition(":")
        return module, "", path.split(".")[0]
    first, *rest = use.place.split(".")[1:]
    return (*_COOLDOWNS, rest[0]) if first == "cooldown_cache" else (*_ROUTER, first)


def seam(hidden: Iterable[Use]) -> str:
    """Return a sitecustomize that hides these names."""
    return SEAM.format(hidden=[owner_of(use) for use in hidden])


def environment(folder: Path, hidden: Iterable[Use]) -> dict[str, str]:
    """Write the sitecustomize into a folder, and return the variable with which Python loads it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(seam(hidden))
    return {"PYTHONPATH": str(folder)}


def also_hidden(use: Use) -> set[Use]:
    """Return the names that are missing when this one is hidden: it may share its class with others."""
    return {other for other in USES if owner_of(other) == owner_of(use)}
