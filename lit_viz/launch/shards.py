"""The process of a shard: it is alone, although SLURM or torchrun may have started others beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lit_viz.engine.lightning import is_distributed
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.shards import Shard
from lit_viz.errors import LitVizError
from lit_viz.launch.options import RunOptions
from lit_viz.utils.process import single_process


@contextmanager
def process_of_shard(shard: str | None) -> Iterator[str | None]:
    """Yield the shard of this process as ``i/n``, and hide in the body that it is a rank of several processes.

    Of several GPUs, it takes that of its local rank.
    """
    if shard is None:
        yield None
        return
    own = Shard.parse(shard)
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is not None and torch.cuda.is_available():
        torch.cuda.set_device(int(local_rank) % torch.cuda.device_count())
    with single_process():
        yield str(own)


def check_shard(module: ImageTraining, options: RunOptions) -> None:
    """Check that a shard can be computed without the others.

    Raises:
        LitVizError: the tasks depend on each other, or the run has several devices.
    """
    if options.shard is None:
        return
    if not module.can_shard:
        raise LitVizError(f"shard does not apply to {type(module).__name__}, whose tasks share their photographs")
    if module.devices_mode == "views":
        raise LitVizError("shard does not apply to devices_mode=views, where all devices have the same tasks")
    if is_distributed(options.trainer_arguments):
        devices = options.trainer_arguments.devices
        raise LitVizError(f"a shard must have one device, got devices={devices}: give more shards")
