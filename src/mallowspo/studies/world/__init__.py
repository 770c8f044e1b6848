"""The study `world` and its preset, the quick start."""
