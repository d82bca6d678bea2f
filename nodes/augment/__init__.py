"""Nodes of the menu `augment`."""
