"""What an operator does, as functions that return values. Contains no command line; never prints."""
