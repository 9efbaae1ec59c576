"""Connect lmstack with LiteLLM's app: start-up, middleware, routes, log filter. Never handles a single LLM call."""
