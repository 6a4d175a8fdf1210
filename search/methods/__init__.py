"""The search methods by name."""
