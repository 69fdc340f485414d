"""Spaces that are projections of θ."""
