"""The commands. What stands here comes before torch is imported, whichever of them is started."""

import ctypes
import os
import sys
from contextlib import suppress

# threads that wait for work spin for some microseconds, and then they sleep: without any, a network of small layers is
# a tenth slower, and with the usual milliseconds two processes on the same cores keep each other from working
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# A training step on a CPU frees its activations and asks for the same again. glibc gives them back to the system each
# time, and each page then costs a fault: a twentieth of the step of a small network. Up to 1 GB of them are kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
if sys.platform == "linux":
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 1 << 30)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that it takes
