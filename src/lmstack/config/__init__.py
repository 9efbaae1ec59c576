"""What the user wrote: .env and models.yaml. Never starts a process or asks the network."""
