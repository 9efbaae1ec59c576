"""Send the events in the outbox to TaskMaster. Never imports LiteLLM."""
