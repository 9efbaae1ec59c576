"""Serve the page at /dashboard, its JSON at /api/v1, and /metrics: an ASGI app that reads the ledger.

Imports starlette, jinja2, ``lmstack.ledger`` and ``lmstack.routing``; never LiteLLM, and nothing of the operator's side. The
event loop belongs to the requests: everything that reads a file or makes HTML runs in threads of its own.
"""
