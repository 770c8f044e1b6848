"""A model and a batch in; log-probability, entropy sum and length per response out."""

from mallowspo.scoring.padded import ResponseScores, score_padded

__all__ = ["ResponseScores", "score_padded"]
