"""What makes a policy: examples, controllers, calibration, tuning, evaluation."""
