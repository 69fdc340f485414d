"""Threads beside the tasks: lost work is put back, old results go, records are copied."""
