"""Validation while training: schedule, metrics and report."""
