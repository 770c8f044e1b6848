"""The study of the dispersion indexes."""
