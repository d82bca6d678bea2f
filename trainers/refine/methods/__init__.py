"""Methods of refinement: each has losses of its own."""
