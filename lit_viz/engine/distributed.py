"""One run on several devices, a process each: who is who, what they agree on, and how what they find comes together.

Lightning launches and connects the processes; nothing is wrapped in ``DistributedDataParallel``, for there are no
weights whose gradients could be averaged. Two ways to share the work (``--devices-mode``):

- ``images``: every process trains the images of its share of the queue, and nothing of them is averaged;
- ``views``: all processes train the same images, each evaluates its share of their views (or of the rows of a batch,
  where an image has one view), and scores and gradients are summed.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.utils.ranks import launcher_topology

DevicesMode = Literal["images", "views"]
T = TypeVar("T")

#: The processes meet about so often: as soon as that they notice each other's end, and as seldom that it costs nothing.
_SECONDS_BETWEEN = 1.0
_STEPS_BETWEEN = 50  # at most


class LaunchOnlyStrategy(DDPStrategy):
    """Launches and connects processes as ``ddp`` does, and leaves the module as it is."""

    def configure_ddp(self) -> None:
        """Do nothing: every process has images of its own, or sums what it needs itself."""


@dataclass
class LocalRequests:
    """What one process wants of all.

    Attributes:
        signal: that asked it to stop, or 0.
        save: whether it is time for a checkpoint.
    """

    signal: int = 0
    save: bool = False


class RankStatus(NamedTuple):
    """What a process says when all meet.

    Attributes:
        unfinished: whether it has images left.
        signal: that asked it to stop, or 0.
        save: whether it is time for a checkpoint.
        updates: of the images in its slots.
        seconds: that a step takes it.
        digest: of its images, which in ``views`` are the same for all.
    """

    unfinished: bool
    signal: int = 0
    save: bool = False
    updates: int = 0
    seconds: float = 0.0
    digest: float = 0.0


@dataclass
class JointDecision:
    """What all processes do next.

    Attributes:
        unfinished: whether any has images left.
        signal: that asked one of them to stop, or 0.
        save: whether a checkpoint is due; whoever saves it takes this back.
        updates: of all images in slots.
    """

    unfinished: bool = True
    signal: int = 0
    save: bool = False
    updates: int = 0


@dataclass(frozen=True)
class Part:
    """The network inputs, image by image and view by view, that one of several processes evaluates.

    View v belongs to process v mod R; where an image has one view, row m of the batch belongs to process m mod R. A
    process that has none evaluates the first, and what comes of it is not counted.

    Attributes:
        inputs: ``(P,)``, their places in the whole batch.
        counted: ``(images * views,)`` bool, which results count here.
    """

    inputs: Tensor
    counted: Tensor

    def placed(self, rows: Tensor) -> Tensor:
        """Return the rows at their places in the whole batch, zero in the places of the other processes."""
        whole = rows.new_zeros(len(self.counted), *rows.shape[1:]).index_copy(0, self.inputs.to(rows.device), rows)
        return self.only_counted(whole)

    def only_counted(self, whole: Tensor) -> Tensor:
        """Return the whole batch with zeros in the places of the other processes."""
        counted = self.counted.to(whole.device).view(-1, *[1] * (whole.dim() - 1))
        return torch.where(counted, whole, whole.new_zeros(()))


@dataclass
class RankGroup:
    """The processes of a run; one alone, unless :meth:`connected`.

    Attributes:
        rank, size: which of how many this is.
        mode: how they share the work.
    """

    rank: int = 0
    size: int = 1
    mode: DevicesMode = "images"
    _group: Any = None
    _left: int = field(default=1, init=False)  # steps until they meet

    @classmethod
    def connected(cls, mode: DevicesMode, size: int) -> RankGroup:
        """Return the processes that Lightning has connected for a run of so many; where it is of one, others that
        somebody has connected have no part in it."""
        if size == 1:
            return cls(mode=mode)
        # A group of its own on the processors: agreeing never waits for a GPU, and a process that ends is noticed.
        return cls(dist.get_rank(), dist.get_world_size(), mode, dist.new_group(backend="gloo"))

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    @property
    def shares_views(self) -> bool:
        """Whether this is one of several that evaluate the same images."""
        return self.size > 1 and self.mode == "views"

    def holds(self, index: int) -> bool:
        """Return whether the task with this index is trained here, however far the run is."""
        return self.mode == "views" or index % self.size == self.rank

    def gather(self, mine: list[T]) -> list[T]:
        """Return what all processes have, in order of their ranks, on the first one; nothing elsewhere.

        In ``views`` all have the same, and the first one's is taken.
        """
        if self.size == 1 or self.mode == "views":
            return mine if self.first else []
        all_of_them: list[list[T]] | None = [[] for _ in range(self.size)] if self.first else None
        dist.gather_object(mine, all_of_them, group=self._group)
        return [one for some in all_of_them or () for one in some]

    def meets(self) -> bool:
        """Count a step, and return whether the processes meet at its end."""
        self._left -= 1
        return self._left <= 0

    def agree(self, mine: RankStatus) -> JointDecision:
        """Hear what every process says, and return what all do.

        Raises:
            LitVizError: in ``views``, where the processes' images are no longer the same.
        """
        said = [mine]
        if self.size > 1:
            said = [mine] * self.size
            dist.all_gather_object(said, mine, group=self._group)
            slowest = max(one.seconds for one in said)
            self._left = max(1, min(_STEPS_BETWEEN, int(_SECONDS_BETWEEN / max(slowest, 1e-6))))
        if self.mode == "views" and len({one.digest for one in said}) > 1:
            raise LitVizError(
                "the processes no longer have the same image, so the devices don't calculate alike: "
                "use devices of one kind, or leave out --devices-mode views."
            )
        return JointDecision(
            unfinished=any(one.unfinished for one in said),
            signal=max(one.signal for one in said),
            save=any(one.save for one in said),
            updates=mine.updates if self.mode == "views" else sum(one.updates for one in said),
        )

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, the same to the last bit on each."""
        if not self.shares_views:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def part(self, images: int, views: int) -> Part | None:
        """Return which network inputs are evaluated here; None for all."""
        if not self.shares_views:
            return None
        inputs = torch.arange(images * views)
        counted = (inputs % views if views > 1 else inputs) % self.size == self.rank
        mine = inputs[counted]
        if not len(mine):
            mine = inputs[::views] if views > 1 else inputs[:1]
        return Part(mine, counted)


def is_rank_failure(error: BaseException) -> bool:
    """Return whether this is how the end of another process of the run shows itself here."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def kill_ranks(trainer: pl.Trainer) -> None:
    """End the processes that this one has launched where they can't notice its end: in a collective of NCCL."""
    kill = getattr(trainer.strategy.launcher, "kill", None)
    if kill is not None and dist.is_available() and dist.is_initialized() and dist.get_backend() == "nccl":
        kill(signal.SIGKILL)


def is_distributed(options: Any) -> bool:
    """Return whether the Trainer's options (a namespace), torchrun or SLURM ask for more than one process."""
    return str(options.devices) not in ("1", "[0]") or options.num_nodes != 1 or launcher_topology() is not None


def trainer_options(options: Any) -> dict[str, Any]:
    """Return the Trainer's options, with the strategy for several processes where there are several.

    Devices and nodes are those that torchrun or SLURM has started, unless they are given.
    """
    given: dict[str, Any] = options.as_dict()
    if torch.backends.mps.is_available():  # which has no float64: Lightning would take it
        if given["accelerator"] in ("mps", "gpu"):
            raise LitVizError("Apple's GPUs can't be used, for they have no float64: give --trainer.accelerator cpu.")
        given["accelerator"] = "cpu"
    if not is_distributed(options):
        return given
    if str(options.devices) == "1" and (started := launcher_topology()) is not None:
        given["devices"], given["num_nodes"] = started
    return {**given, "strategy": LaunchOnlyStrategy(), "use_distributed_sampler": False}


def disable_step_barrier(trainer: pl.Trainer) -> None:
    """Let every process take its steps at its own pace between two meetings.

    Lightning has all processes wait for each other before every step, to hear of a SIGTERM that only the first one's
    counts for; here they hear of any process's signal when they meet.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
