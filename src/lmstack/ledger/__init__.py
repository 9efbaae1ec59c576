"""The durable record of all requests, in SQLite. Imports only the standard library and ``lmstack.routing``; never LiteLLM."""
