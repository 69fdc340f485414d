"""The workers: what takes tasks from the queues and computes."""
