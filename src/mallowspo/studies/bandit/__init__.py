"""The bandit study."""
