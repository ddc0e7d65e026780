"""Interactions of two switches: words, system prompts or adapters."""
