"""The studies as runnable functions, each with a config, seeds and a report."""
