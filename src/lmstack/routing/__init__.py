"""Which model a request goes to. Pure: no file, clock or environment."""
