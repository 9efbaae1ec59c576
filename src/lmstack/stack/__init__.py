"""What will run in one folder: paths, plan, rendered configuration, health. Never starts a process."""
