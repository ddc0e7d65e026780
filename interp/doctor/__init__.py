"""The invariants of the toolkit, checked on a user's own checkpoint."""
