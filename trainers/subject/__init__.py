"""Training of a subject."""
