"""Bigram-Backcopy: its grammar and exact oracle, recipes and measurements."""
