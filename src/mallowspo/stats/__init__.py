"""Intervals, bootstraps, comparisons at equal KL and verdicts: the only ones of the project."""
