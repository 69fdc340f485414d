"""Webhooks: events of jobs are written together with the job's change, and told from here until they are heard."""
