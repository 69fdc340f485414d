"""Our engine and other libraries at the same work: time, memory, accuracy, side by side.

`python -m benchmarks.peers` runs it; `python -m benchmarks.peers.growth` shows how cost grows.
"""
