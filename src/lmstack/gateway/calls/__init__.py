"""Follows one request through LiteLLM's hooks, from its admission to its final record. Never opens the ledger's file."""
