"""The measurements behind a refusal finding."""
