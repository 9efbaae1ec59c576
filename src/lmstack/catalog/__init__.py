"""Providers, models and prices. Never reads the user's settings."""
