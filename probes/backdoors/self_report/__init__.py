"""What a model says about its hidden behaviour, beside a reference model."""
