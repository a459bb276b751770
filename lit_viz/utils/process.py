"""Rank and CPU performance of the process. torch is imported when needed, so that the help is fast."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_MIB = 1 << 20
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
_SETTINGS = (
    # Blocks below this size are taken from the heap. Older releases of glibc accept at most 32 MiB.
    (_M_MMAP_THRESHOLD, (1024 * _MIB, 32 * _MIB)),
    # The heap is never trimmed. With any limit, large batches would release and fault in pages at every step.
    (_M_TRIM_THRESHOLD, (-1,)),
    # The heap grows by this much in addition to the requested size.
    (_M_TOP_PAD, (64 * _MIB,)),
)


def tune_allocator() -> bool:
    """Make glibc keep freed memory for the next step; return whether it was configured.

    By default glibc maps each large tensor and unmaps it when it is freed, so its pages are faulted in again at every
    step; on a CPU this can take as long as the network. The setting costs about 8 % of peak memory, holds for the whole
    process and changes no result. It is skipped on systems without glibc, and with ``LIT_VIZ_ALLOCATOR=0`` in the
    environment.
    """
    if os.environ.get("LIT_VIZ_ALLOCATOR") == "0" or not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    for option, values in _SETTINGS:
        accepted = any(mallopt(option, value) == 1 for value in values)
        if not accepted:
            return False
    return True


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def single_thread_executor(name: str) -> ThreadPoolExecutor:
    """Create an executor with one thread, which also runs all torch operations of its tasks.

    Each thread that calls torch has its own OpenMP team. While there are more teams than processors, GNU's OpenMP puts
    all of them to sleep between two operations: small operations of the training take twice as long, a network 4 %.
    The number of threads of other threads is unchanged.
    """
    import torch

    def use_one_thread() -> None:
        torch.get_num_threads()  # initializes the thread; otherwise its first operation would reset the number
        torch.set_num_threads(1)

    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(1, name, initializer=use_one_thread)
    executor.submit(int).result()  # the thread starts with its first task
    torch.set_num_threads(threads)  # set_num_threads in a thread also changes the default of later threads
    return executor


def _launcher_environment() -> tuple[int, int, int] | None:
    """Return (rank, world size, nodes), or None unless torchrun or SLURM launched more than one process."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        nodes = world_size // int(environment["LOCAL_WORLD_SIZE"])
    elif "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        # An interactive shell in an allocation is not a distributed job; Lightning uses the same rule.
        rank, world_size = int(environment["SLURM_PROCID"]), int(environment.get("SLURM_NTASKS", "1"))
        nodes = int(environment.get("SLURM_NNODES", "1"))
    else:
        return None
    if world_size == 1:
        return None
    return rank, world_size, nodes


def launcher_topology() -> tuple[int, int] | None:
    """Return (devices per node, nodes), or None unless torchrun or SLURM launched more than one process."""
    launched = _launcher_environment()
    if launched is None:
        return None
    _, world_size, nodes = launched
    return world_size // nodes, nodes


def is_rank_zero() -> bool:
    """Return whether this process has rank 0: it owns the run folder and prints messages."""
    launched = _launcher_environment()
    if launched is not None:
        return launched[0] == 0
    return os.environ.get("NODE_RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def single_process() -> Iterator[None]:
    """Hide the launcher's environment variables in the body: a run in it is a single process of rank 0."""
    hidden = {}
    for name in list(os.environ):
        if name in _RANK_VARIABLES or name.startswith(("TORCHELASTIC_", "SLURM_")):
            hidden[name] = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ.update(hidden)
