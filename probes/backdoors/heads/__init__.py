"""Heads that carry a backdoor: patched and swapped."""
