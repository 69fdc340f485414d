"""Questions to an index, answered by a warm worker."""
