"""Unlearning a trigger in a copy of the model, and what it did to everything else."""
