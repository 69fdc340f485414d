"""Indexes: questions that a warm worker answers while whoever asks waits."""
