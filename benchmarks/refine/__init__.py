"""The bench `refine`."""
