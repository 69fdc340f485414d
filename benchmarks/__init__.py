"""Figures that back the claims: a file a claim, runnable by itself; README.md says what they gave."""
