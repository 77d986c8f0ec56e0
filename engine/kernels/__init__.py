"""Warp kernels and nothing else; each has a plain torch twin in tests/."""

import os

# torch's OpenMP threads wait by spinning, on the very cores that the kernels' thread pool and other processes want:
# measured with two threads on two busy cores, 0.4 s instead of 7 s for the same step. Read when torch is first
# imported, so it does nothing where torch came first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
