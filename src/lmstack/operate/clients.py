"""How each client is set up for the gateway: environment variables, or text to paste. Pure.

Each was tried with a running gateway. Tests run those clients that can be installed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MODEL = re.compile(r"[\w.:/@+*-]+")


def key_command(dir_flag: str = "") -> str:
    """Return the shell expression for the key. The key itself appears neither on the screen nor in the shell's history.

    ``dir_flag`` names the stack's folder. Without it, the key would be that of another stack.
    """
    return f'"$(lm key show{dir_flag})"'


def usable_model(name: str) -> bool:
    """Return whether a model's name is safe in every snippet: in a shell, Python, JSON, YAML and TOML."""
    return _MODEL.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Client:
    """A client. ``environ`` and ``snippet`` may contain {url}, {key} and {model}; ``command`` is what `lm run` starts."""

    title: str
    environ: Mapping[str, str] = field(default_factory=dict)
    snippet: str = ""
    where: str = ""  # the file for the snippet
    command: tuple[str, ...] = ()


CLIENTS: dict[str, Client] = {
    "openai": Client(
        "OpenAI SDKs, and programs that read their variables",
        {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "{key}"},
        'from openai import OpenAI\n\nanswer = OpenAI().chat.completions.create(\n    model="{model}", messages=[{{"role": "user", "content": "Hello!"}}]\n)\nprint(answer.choices[0].message.content)',
        "Python",
    ),
    "anthropic": Client(
        "Anthropic SDKs",
        {"ANTHROPIC_BASE_URL": "{url}", "ANTHROPIC_API_KEY": "{key}"},
        'from anthropic import Anthropic\n\nanswer = Anthropic().messages.create(\n    model="{model}", max_tokens=100, messages=[{{"role": "user", "content": "Hello!"}}]\n)\nprint(answer.content[0].text)',
        "Python",
    ),
    "google": Client(
        "google-genai",
        {"LM_KEY": "{key}"},
        'import os\n\nfrom google import genai\n\nclient = genai.Client(\n    api_key=os.environ["LM_KEY"], http_options={{"base_url": "{url}", "api_version": "v1beta"}}\n)\nprint(client.models.generate_content(model="{model}", contents="Hello!").text)',
        "Python",
    ),
    "curl": Client(
        "curl",
        {"LM_KEY": "{key}"},
        'curl {url}/v1/chat/completions -H "Authorization: Bearer $LM_KEY" -H "Content-Type: application/json" \\\n  -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'',
        "shell",
    ),
    "claude-code": Client(
        "Claude Code",
        {"ANTHROPIC_BASE_URL": "{url}", "ANTHROPIC_AUTH_TOKEN": "{key}", "ANTHROPIC_MODEL": "{model}", "ANTHROPIC_SMALL_FAST_MODEL": "cheap"},
        command=("claude",),
    ),
    "codex": Client(
        "Codex",
        {"LM_KEY": "{key}"},
        'model = "{model}"\nmodel_provider = "lmstack"\n\n[model_providers.lmstack]\nname = "lmstack"\nbase_url = "{url}/v1"\nenv_key = "LM_KEY"\nwire_api = "responses"',
        "~/.codex/config.toml",
        ("codex",),
    ),
    "aider": Client(
        "aider",
        {"OPENAI_API_BASE": "{url}/v1", "OPENAI_API_KEY": "{key}", "AIDER_MODEL": "openai/{model}"},
        command=("aider",),
    ),
    "llm": Client(
        "llm",
        {"OPENAI_API_KEY": "{key}"},
        '- model_id: lm-{model}\n  model_name: {model}\n  api_base: "{url}/v1"\n  api_key_name: openai',
        "extra-openai-models.yaml in the folder that `dirname \"$(llm logs path)\"` prints; then: llm -m lm-{model} 'Hello!'",
        ("llm",),
    ),
    "langchain": Client(
        "LangChain",
        {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_BASE": "{url}/v1", "OPENAI_API_KEY": "{key}"},
        'from langchain_openai import ChatOpenAI\n\nprint(ChatOpenAI(model="{model}").invoke("Hello!").content)',
        "Python",
    ),
    "vercel-ai": Client(
        "Vercel AI SDK",
        {"LM_KEY": "{key}"},
        'import {{ createOpenAI }} from "@ai-sdk/openai";\nimport {{ generateText }} from "ai";\n\nconst lm = createOpenAI({{ baseURL: "{url}/v1", apiKey: process.env.LM_KEY }});\nconst {{ text }} = await generateText({{ model: lm.chat("{model}"), prompt: "Hello!" }});',
        "TypeScript",
    ),
    "continue": Client(
        "Continue",
        {"LM_KEY": "{key}"},
        'name: lmstack\nversion: 1.0.0\nschema: v1\nmodels:\n  - name: lmstack\n    provider: openai\n    model: {model}\n    apiBase: {url}/v1\n    apiKey: ${{{{ secrets.LM_KEY }}}}',
        "~/.continue/config.yaml",
        ("cn",),
    ),
    "open-webui": Client("Open WebUI", {"OPENAI_API_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "{key}"}),
    "task-master": Client(
        "Task Master",
        {"OPENAI_API_KEY": "{key}", "OPENAI_BASE_URL": "{url}/v1"},
        '{{\n  "models": {{\n    "main": {{"provider": "openai", "modelId": "{model}", "maxTokens": 8000, "temperature": 0.2, "baseURL": "{url}/v1"}}\n  }}\n}}',
        ".taskmaster/config.json",
    ),
}  # fmt: skip


def environ_for(client: Client, url: str, key: str, model: str) -> dict[str, str]:
    """Return the variables with address, key and model."""
    return {name: value.format(url=url, key=key, model=model) for name, value in client.environ.items()}


def snippet_for(client: Client, url: str, model: str) -> tuple[str, str]:
    """Return the snippet and the file for it. The snippet contains no key."""
    return client.snippet.format(url=url, model=model), client.where.format(model=model)
