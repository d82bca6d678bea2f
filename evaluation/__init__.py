"""Evaluation: metrics (rewards are metrics too), samples, selection of checkpoints, and reports."""
