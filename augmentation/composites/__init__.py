"""Subjects cut out and pasted onto other backgrounds."""
