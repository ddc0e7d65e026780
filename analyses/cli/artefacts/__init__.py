"""Verbs that make and use artefacts: collections, probes, guards, policies, vectors."""
