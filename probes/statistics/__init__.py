"""What probes state numbers with: metrics, nulls, floors, calibration."""
