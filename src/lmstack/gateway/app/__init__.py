"""Around LiteLLM's app: start-up, routes, log filter. Never handles one single call."""
