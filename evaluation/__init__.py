"""What tells good from bad: metrics (rewards are metrics too), grids, plots and the report."""
