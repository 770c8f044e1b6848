"""The study of flipped labels."""
