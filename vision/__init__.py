"""Frozen helper models: how they are found, opened and fetched, and what each of them answers."""
