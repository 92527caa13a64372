"""Self-supervised methods on clips."""
