"""Banks of retrained weights: what there is, and deleting it."""
