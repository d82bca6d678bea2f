"""Nodes of the menu `files`."""
