"""The proxy side of lmstack: it records every call and delivers what happened to TaskMaster.

It runs inside the LiteLLM proxy, so it needs nothing but the standard library and httpx; only
``handler`` and ``proxy`` may import litellm. It must never import ``lmstack``.
"""
