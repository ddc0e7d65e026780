"""The refusal finding: harmfulness, refusal, and what the refusal direction does."""
