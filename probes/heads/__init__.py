"""Heads that write along a probe: attribution and ablation."""
