"""Symmetric (p, p) operators that are sums over the training rows, and their matrices."""
