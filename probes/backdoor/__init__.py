"""Backdoors: triggers searched, detectors, self-report, switches, agent traces."""
