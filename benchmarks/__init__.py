"""Speed, memory and accuracy, measured by hand: ``python -m benchmarks.prefill``, ``python -m benchmarks.scenes``."""

import os

# Threads that wait for each other shall sleep, not spin: on a shared machine spinning takes time from the very thread
# that is waited for, and would be booked as processor time. To be set before torch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
