"""Rank and world size before Lightning connects the processes, from the environment of torchrun or SLURM."""

from __future__ import annotations

import os


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
    return (rank, world_size, nodes) if world_size > 1 else None


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
