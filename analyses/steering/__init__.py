"""The steering finding: what policies refuse, what they refuse too much, and what they cost."""
