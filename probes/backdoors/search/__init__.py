"""The search for triggers under a stated budget, and the confirmation of what it finds."""
