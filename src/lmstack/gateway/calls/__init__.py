"""One request through LiteLLM's hooks, from admission to its end. Never opens the ledger's file."""
