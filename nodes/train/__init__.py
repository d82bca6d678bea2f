"""Nodes of the menu `train`, and those for relations."""
