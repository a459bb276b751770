"""Distributed runs: one process per device, launched and connected by Lightning.

The module is not wrapped in ``DistributedDataParallel``, because there are no weights with gradients to average.
``--devices-mode`` selects how the ranks share the work:

- ``images``: each rank optimizes its share of the queue;
- ``views``: all ranks optimize the same images. Each evaluates its share of the views (of the rows of the batch, if an
  image has one view), and scores and gradients are summed.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.utils.ranks import launcher_topology

DevicesMode = Literal["images", "views"]
T = TypeVar("T")


class LaunchOnlyStrategy(DDPStrategy):
    """Strategy that launches and connects processes like ``ddp``, without wrapping the module."""

    def configure_ddp(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class InputShard:
    """The network inputs, ordered by image and view, that one rank evaluates.

    View v belongs to rank v mod R; if an image has one view, row m of the batch belongs to rank m mod R. A rank without
    inputs evaluates the first one and does not count it.

    Attributes:
        inputs: ``(P,)`` indices into the whole batch.
        counted: ``(images * views,)`` bool, inputs whose outputs are counted on this rank.
    """

    inputs: Tensor
    counted: Tensor

    def scatter(self, rows: Tensor) -> Tensor:
        """Return the outputs ``(P, ...)`` at their indices in the whole batch, with zeros elsewhere."""
        whole = rows.new_zeros(len(self.counted), *rows.shape[1:]).index_copy(0, self.inputs.to(rows.device), rows)
        return self.mask(whole)

    def mask(self, whole: Tensor) -> Tensor:
        """Return the whole batch with zeros for inputs of the other ranks."""
        counted = self.counted.to(whole.device).view(-1, *[1] * (whole.dim() - 1))
        return torch.where(counted, whole, whole.new_zeros(()))


@dataclass(frozen=True)
class RankGroup:
    """The ranks of a run; a single one by default.

    Attributes:
        rank: rank of this process.
        size: world size.
        mode: how the ranks share the work.
        group: process group on the CPU, for objects and status.
    """

    rank: int = 0
    size: int = 1
    mode: DevicesMode = "images"
    group: Any = None

    @classmethod
    def connect(cls, mode: DevicesMode, size: int) -> RankGroup:
        """Return the ranks that Lightning has connected for a run of this world size.

        A run with one process ignores a process group that was initialized outside of it.
        """
        if size == 1:
            return cls(mode=mode)
        # On the CPU: synchronizing never waits for a GPU, and the end of a process raises an error.
        return cls(dist.get_rank(), dist.get_world_size(), mode, dist.new_group(backend="gloo"))

    @property
    def is_zero(self) -> bool:
        """Whether this is rank 0, which writes the run folder."""
        return self.rank == 0

    @property
    def shares_views(self) -> bool:
        """Whether several ranks evaluate the same images."""
        return self.size > 1 and self.mode == "views"

    def owns(self, index: int) -> bool:
        """Return whether this rank optimizes the task with this index."""
        return self.mode == "views" or index % self.size == self.rank

    def gather(self, items: list[T]) -> list[T]:
        """Return the items of all ranks on rank 0, in rank order, and nothing elsewhere.

        In mode ``views`` all ranks have the same items, and the list of rank 0 is returned.
        """
        if self.size == 1 or self.mode == "views":
            return items if self.is_zero else []
        gathered: list[list[T]] | None = [[] for _ in range(self.size)] if self.is_zero else None
        dist.gather_object(items, gathered, group=self.group)
        return [item for rank_items in gathered or () for item in rank_items]

    def all_gather(self, item: T) -> list[T]:
        """Return the items of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [item]
        gathered = [item] * self.size
        dist.all_gather_object(gathered, item, group=self.group)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks that share views, bitwise equal on each."""
        if not self.shares_views:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def shard(self, images: int, views: int) -> InputShard | None:
        """Return the network inputs that this rank evaluates; None for all."""
        if not self.shares_views:
            return None
        inputs = torch.arange(images * views)
        counted = (inputs % views if views > 1 else inputs) % self.size == self.rank
        own = inputs[counted]
        if not len(own):
            own = inputs[::views] if views > 1 else inputs[:1]
        return InputShard(own, counted)


def is_rank_failure(error: BaseException) -> bool:
    """Return whether the error was caused by the end of another rank."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def kill_ranks(trainer: pl.Trainer) -> None:
    """Kill the processes launched by this one if they would wait in a collective of NCCL."""
    kill = getattr(trainer.strategy.launcher, "kill", None)
    if kill is not None and dist.is_available() and dist.is_initialized() and dist.get_backend() == "nccl":
        kill(signal.SIGKILL)


def is_distributed(options: Any) -> bool:
    """Return whether the Trainer's options, torchrun or SLURM request more than one process."""
    return str(options.devices) not in ("1", "[0]") or options.num_nodes != 1 or launcher_topology() is not None


def trainer_options(options: Any) -> dict[str, Any]:
    """Return the Trainer's options, with a strategy if there are several processes.

    Devices and nodes default to the processes launched by torchrun or SLURM.

    Raises:
        LitVizError: the accelerator is a GPU of Apple.
    """
    given: dict[str, Any] = options.as_dict()
    if torch.backends.mps.is_available():  # Lightning would select it by default
        if given["accelerator"] in ("mps", "gpu"):
            raise LitVizError("GPUs of Apple have no float64 and are not supported: use --trainer.accelerator cpu.")
        given["accelerator"] = "cpu"
    if not is_distributed(options):
        return given
    if str(options.devices) == "1" and (launched := launcher_topology()) is not None:
        given["devices"], given["num_nodes"] = launched
    return {**given, "strategy": LaunchOnlyStrategy(), "use_distributed_sampler": False}


def disable_step_barrier(trainer: pl.Trainer) -> None:
    """Disable the synchronization of the ranks before every step.

    Lightning broadcasts the SIGTERM of rank 0 there. Ranks exchange all signals in their status instead
    (:mod:`lit_viz.engine.rank_status`).
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
