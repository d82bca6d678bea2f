"""Masks: found by a phrase, and cleaned."""
