"""Decide which model a request goes to. Pure: no file, clock or environment."""
