"""The workers: what takes tasks from the queues and computes."""

import os

# Read as torch loads: threads that wait for each other sleep. Spinning, they take the cores from whoever they wait for
# as soon as a machine has more to do than it has cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
