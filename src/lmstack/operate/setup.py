"""Asks for the first settings of a stack. Nothing is written here."""

from collections.abc import Callable

from lmstack import files
from lmstack.catalog.models import Catalog
from lmstack.config.env_example import env_example
from lmstack.config.envfile import parse_env, set_line
from lmstack.config.kinds import check
from lmstack.config.settings import BY_NAME, parse_settings
from lmstack.stack.project import Project

ASKED_PROVIDERS = ("openai", "anthropic", "google")
# Asks one question and returns the answer, "" for none. The second argument says whether the answer is hidden.
Ask = Callable[[str, bool], str]
Tell = Callable[[str], None]


def env_from_answers(project: Project, ask: Ask, tell: Tell) -> str:
    """Return the text of .env with the user's answers in it. An empty answer changes nothing."""
    text = files.read(project.env_file) or env_example()
    catalog = project.catalog()
    values = {name: entry.value for name, entry in parse_env(text).items()}
    tell(f"A gateway in {project.root}. Press Enter to keep the value in brackets. Keys are not shown.")
    for provider in catalog.providers.values():
        if provider.key and provider.name in ASKED_PROVIDERS:
            now = "keep" if values.get(provider.key) else "none"
            text = _answered(text, catalog, provider.key, f"{provider.title} key [{now}]", ask, tell)
    port = values.get("LITELLM_PORT") or BY_NAME["LITELLM_PORT"].default
    text = _answered(text, catalog, "LITELLM_PORT", f"Port [{port}]", ask, tell)
    url = values.get("TASKMASTER_API_URL") or "none"
    return _answered(text, catalog, "TASKMASTER_API_URL", f"TaskMaster's address [{url}]", ask, tell)


def _answered(text: str, catalog: Catalog, name: str, question: str, ask: Ask, tell: Tell) -> str:
    """Ask until the answer is valid, and return the text with it."""
    setting = BY_NAME[name]
    while True:
        answer = ask(question, setting.secret).strip()
        if not answer:
            return text
        wrong = check(setting.kind, answer)
        if not wrong:
            changed = set_line(text, name, answer)
            parse_settings(parse_env(changed), {}, None, catalog.variables)
            return changed
        tell(f"  {name} {wrong}")
