"""The bench `augment`."""
