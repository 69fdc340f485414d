"""Indexes by eigenvectors, by a random projection, and bergson's, side by side."""
