"""Masks: segmented by a phrase, and cleaned."""
