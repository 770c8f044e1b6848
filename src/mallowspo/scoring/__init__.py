"""A model and a batch in; log-probability, entropy sum and length per response out."""
