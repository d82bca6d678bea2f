"""What an evaluation writes for people: pages, plots, grids, the blind test."""
