"""Refinement of an adapter by rewards."""
