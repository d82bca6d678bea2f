"""Embedders of pictures and texts."""
