"""Trainings as JSON files describe them, outside a graph."""
