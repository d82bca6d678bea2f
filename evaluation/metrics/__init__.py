"""Metrics: each gives pictures a score."""
