"""Dry runs: what a training would do and need."""
