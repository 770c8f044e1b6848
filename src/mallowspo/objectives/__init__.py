"""Policy scores, reference scores and a weight in; a loss per example out. Pure functions."""
