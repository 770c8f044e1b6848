"""The embedded world: a small generated language whose consensus and dispersion are known."""
