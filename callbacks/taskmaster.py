"""What litellm-config.yaml names as its callbacks. Everything is in lmledger; this file only points there."""

from lmledger.handler import handler
from lmledger.traffic import guard

__all__ = ["guard", "handler"]
