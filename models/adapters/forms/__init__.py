"""The forms in which files keep what an adapter changes in a layer."""
