"""Optimizers of weights and of learned tokens."""
