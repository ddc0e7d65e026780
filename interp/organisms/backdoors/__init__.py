"""Organisms with planted backdoors, and agents under attack."""
