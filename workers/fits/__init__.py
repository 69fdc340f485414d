"""What stays on a warm worker: models, datasets, and what an inversion has found out about them."""
