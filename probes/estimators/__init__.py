"""Estimators from activations to a score."""
