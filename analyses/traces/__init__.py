"""The traces finding: what shifts between two runs of an agent, and what a behaviour goes with."""
