"""Traces of agents: read, compared, attributed to their sources."""
