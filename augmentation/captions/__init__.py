"""Captions: written, checked, expanded, and bound to their subject."""
