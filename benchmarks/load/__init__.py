"""What the front end holds: clients that poll and listen, a long queue, large uploads at once. Loopback only.

    python -m benchmarks.load polling|queue|uploads

Polling needs `wrk`.
"""
