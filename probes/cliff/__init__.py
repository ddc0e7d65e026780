"""Refusal cliffs: thoughts, a probe along them, heads, and examples for fine-tuning."""
