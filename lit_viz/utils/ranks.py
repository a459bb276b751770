"""Which of several processes this is, before anything is connected: what torchrun, SLURM and Lightning tell it."""

from __future__ import annotations

import os


def _from_outside() -> tuple[int, int, int] | None:
    """Return (rank, processes, nodes) where torchrun or SLURM has started this process as one of several, else None."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        rank, processes = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        nodes = processes // int(environment["LOCAL_WORLD_SIZE"])
    elif "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        # Somebody's shell in an allocation is no task of several; Lightning has it so as well.
        rank, processes = int(environment["SLURM_PROCID"]), int(environment.get("SLURM_NTASKS", "1"))
        nodes = int(environment.get("SLURM_NNODES", "1"))
    else:
        return None
    return (rank, processes, nodes) if processes > 1 else None


def launcher_topology() -> tuple[int, int] | None:
    """Return (devices a node, nodes) where torchrun or SLURM has started this process as one of several, else None."""
    outside = _from_outside()
    if outside is None:
        return None
    _, processes, nodes = outside
    return processes // nodes, nodes


def is_rank_zero() -> bool:
    """Return whether this process makes the run folder and speaks to the user; known before anything is connected."""
    outside = _from_outside()
    if outside is not None:
        return outside[0] == 0
    return os.environ.get("NODE_RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"
