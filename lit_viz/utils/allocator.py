"""The C library's allocator, told to keep memory instead of returning it to the system after every step.

glibc maps each large tensor afresh and unmaps it when it is freed, so that at the next step every page is faulted in
again; on a processor without a GPU that can take as long as the network itself. The price is about 8 % more peak
memory.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_MIB = 1 << 20
_SETTINGS = (
    # Below so many bytes memory comes from the heap, which is kept. Older releases of glibc take at most 32 MiB.
    (_M_MMAP_THRESHOLD, (1024 * _MIB, 32 * _MIB)),
    # The heap is never given back: at any limit a batch of some size would lose and fetch all above it in every step.
    (_M_TRIM_THRESHOLD, (-1,)),
    # The heap grows by so much more than is asked for.
    (_M_TOP_PAD, (64 * _MIB,)),
)


def tune_allocator() -> bool:
    """Tell glibc to keep freed memory for the next step; return whether that was done.

    The setting holds for the whole process and can't be undone; it changes no result. Nothing is done on systems
    without glibc, or where the environment variable ``LIT_VIZ_ALLOCATOR`` is ``0``.
    """
    if os.environ.get("LIT_VIZ_ALLOCATOR") == "0" or not _has_glibc():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all(any(mallopt(option, value) == 1 for value in values) for option, values in _SETTINGS)


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
