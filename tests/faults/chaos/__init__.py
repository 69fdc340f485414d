"""Jobs go on being sent while everything is killed and cut at random; then each result is compared with a calm run's.

python -m tests.faults.chaos --minutes 10
"""
