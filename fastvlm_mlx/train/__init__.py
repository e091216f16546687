"""Training and adapters."""
