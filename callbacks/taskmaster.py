"""Give LiteLLM our callback: litellm-config.yaml names this module. The code is in lmstack.gateway."""

from lmstack.gateway.calls.hooks import handler

__all__ = ["handler"]
