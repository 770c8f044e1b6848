"""The study of what a weight is worth in pairs."""
