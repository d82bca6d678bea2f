"""Prompts in a gallery of pictures: read, searched, and rewritten for a subject."""
