"""Reports: pages, plots, grids, the blind test."""
