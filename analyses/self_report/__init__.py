"""The self-report finding: what a checkpoint says about hidden behaviour, beside its twin."""
