"""Everything about a job that can be known before a worker has it, from records alone."""
