"""The bench `claims`."""
