"""Checkpoints and folders: which family they are, their networks, and their names there and back."""
