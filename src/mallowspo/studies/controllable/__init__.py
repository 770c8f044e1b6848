"""The controllable-generation study."""
