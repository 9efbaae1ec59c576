"""The CLI side of lmstack: plan, render and run a stock LiteLLM proxy. It never imports litellm."""

__version__ = "0.2.0"
