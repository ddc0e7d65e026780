"""Probes read: directions, estimators, guards and detectors stand on this floor."""
