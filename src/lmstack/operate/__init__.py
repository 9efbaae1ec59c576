"""What an operator does, as functions that return values. Never prints."""
