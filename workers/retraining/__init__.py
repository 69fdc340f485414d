"""Models trained anew by their recipes: one as a job, many as a bank."""
