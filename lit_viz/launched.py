"""Which of several processes this is, before anything is connected: what torchrun, SLURM and Lightning tell it."""

from __future__ import annotations

import os


def launched() -> tuple[int, int] | None:
    """Return (devices a node, nodes) where torchrun or SLURM has started this process as one of several, else None."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment and int(environment["WORLD_SIZE"]) > 1:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        nodes = int(environment.get("SLURM_NNODES", "1"))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return None


def is_first() -> bool:
    """Return whether this process makes the run folder and speaks to the user; known before anything is connected."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        return environment["RANK"] == "0"
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return environment["SLURM_PROCID"] == "0"
    return environment.get("NODE_RANK", "0") == "0" and environment.get("LOCAL_RANK", "0") == "0"
