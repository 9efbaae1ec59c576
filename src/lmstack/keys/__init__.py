"""A key for each agent: its secret, its name and its limits. Pure: no SQL, no LiteLLM, no command line."""
