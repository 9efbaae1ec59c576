"""The durable record in SQLite. Needs the standard library alone; never imports litellm."""
