"""The ``lm`` command: one file per verb family. A command parses, calls the core, and returns a Result."""
