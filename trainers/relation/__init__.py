"""Training of a word for a relation between two things."""
