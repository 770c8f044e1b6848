"""The dialogue study."""
