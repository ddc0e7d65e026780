"""The sink finding: what extreme tokens and gates do in a checkpoint."""
