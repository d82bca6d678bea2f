"""The bench `subject`."""
