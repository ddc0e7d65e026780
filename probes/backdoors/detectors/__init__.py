"""Detectors of backdoors that read internal states, and their nulls."""
