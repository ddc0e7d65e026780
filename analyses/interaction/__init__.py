"""The interaction finding: whether two suspected switches work together."""
