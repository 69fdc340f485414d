"""What a worker process is made of: its loop, its device, its lease on a task, its sign of life."""
