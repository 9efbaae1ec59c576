"""From the outbox to TaskMaster. Never imports litellm."""
