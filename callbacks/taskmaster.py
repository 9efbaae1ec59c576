"""What litellm-config.yaml names as its callback. Everything is in lmledger; this file only points there."""

from lmledger.handler import handler

__all__ = ["handler"]
