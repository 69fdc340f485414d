"""Checks of models and datasets before they may be used, and of the rows that a job chooses."""
