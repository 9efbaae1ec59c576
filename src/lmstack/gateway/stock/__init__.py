"""Find the private parts of LiteLLM that lmstack uses. No other package looks for one, so a release without it is noticed here."""
