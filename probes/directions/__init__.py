"""Directions, their selection, and their export to other tools."""
