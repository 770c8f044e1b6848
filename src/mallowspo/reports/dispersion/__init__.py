"""The dispersion report: its figures, its sentences, the page, and what to do next."""
