"""Which LiteLLM releases may run. Pure."""
