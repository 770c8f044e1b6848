"""Ranking mathematics: distances, Mallows models, links. numpy, scipy and torch only; no I/O."""
