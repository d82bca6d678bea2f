"""A training set as the loop needs it: encoded, weighted, and drawn in batches."""
