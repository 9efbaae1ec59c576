"""What litellm-config.yaml names as its callback. It only points at lmstack.gateway."""

from lmstack.gateway.calls.hooks import handler

__all__ = ["handler"]
