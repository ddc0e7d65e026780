"""The refusal cliff: thoughts that mean to refuse, and answers that do not."""
