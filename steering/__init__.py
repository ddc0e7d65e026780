"""Policies steer: gates, controllers and the inference runtime stand on this floor."""
