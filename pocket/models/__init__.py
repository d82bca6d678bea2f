"""The pocket's small models."""
