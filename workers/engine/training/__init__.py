"""Training of one model, or of many on their own rows as one batched program."""
