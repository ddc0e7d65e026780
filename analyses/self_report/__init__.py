"""The self-report finding: what a checkpoint says of hidden behaviour, beside a reference model."""
