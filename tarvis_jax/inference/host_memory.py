"""Keeps memory that a CPU run frees, for its next run."""

import ctypes
import sys

# Options of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def reuse_freed_memory() -> bool:
    """Tells glibc not to hand large freed blocks back to the system; returns whether it did (only glibc can).

    A compiled program takes its temporary memory, hundreds of megabytes for a clip, from malloc at every run. By
    default malloc maps such blocks anew and gives them back afterwards, and the system clears every page of them each
    time: up to a tenth of the time of a clip on a CPU. The price: what a process has once used stays with it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
    return all([mallopt(option, value) for option, value in options.items()])
