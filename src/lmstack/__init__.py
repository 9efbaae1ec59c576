"""Turn a stock LiteLLM proxy into an LLM gateway: the command `lm`, and what runs inside the proxy."""

__version__ = "0.2.0"
