"""Frozen helper models: finding, opening and downloading them, and one protocol for each kind."""
