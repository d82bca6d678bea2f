"""Prompts of pictures that people have: read, searched, and rewritten for a subject."""
