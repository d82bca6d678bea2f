"""Validation while training: when, by what, and what is told of it."""
