"""The panels of a refusal finding."""
