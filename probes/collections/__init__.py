"""Activations on disk, and probes fitted on them."""
