"""Nodes of the menu `base`."""
