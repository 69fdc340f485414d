"""What the front end holds: clients that poll and listen, a long queue, large uploads at once, a
tenant beside another that does its worst. Loopback only.

    python -m benchmarks.load polling|queue|uploads|fairness|questions

Polling and questions need `wrk`.
"""
