"""The bench `relation`."""
