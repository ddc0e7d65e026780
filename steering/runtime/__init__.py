"""What applies a policy while a model generates."""
