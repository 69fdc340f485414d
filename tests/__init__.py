"""Tests, the same folders again; each with the real parts."""

import os

# Tests run side by side, one process a core: threads of each would wait for those of the others, spinning
# (on a busy machine the demo's network took 80 s to train with two threads, 13 s with one).
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most services of the tests check no model: they need not spend the import of torch once more each.
os.environ.setdefault("UPWEIGHT_FORK_AHEAD", "false")
