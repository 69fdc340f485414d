"""A job's states, and what becomes of it at its end: for the front end and the workers alike."""
