"""H itself, (p, p), with fewer operations than p products with unit vectors, where layers allow it."""
