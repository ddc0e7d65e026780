"""Verbs that measure and report."""
