"""Nodes of the menu `pictures`."""
