"""Nodes of the menu `look`."""
