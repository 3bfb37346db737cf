"""Measuring a model on the user's own data, and on the tasks of lm-evaluation-harness."""
