"""The interface of methods: initial image, score, snapshots and record."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import Tensor, nn

from lit_viz.engine.ranks import DevicesMode, RankGroup
from lit_viz.engine.slots import Slots
from lit_viz.engine.snapshots import Snapshot
from lit_viz.errors import LitVizError, NetworkError, require
from lit_viz.images.rendering import Heat
from lit_viz.networks import FrozenNetwork, Network, as_network
from lit_viz.networks.fast import CompileMode
from lit_viz.optim import Evaluation, State, StepRule
from lit_viz.types import Record, Task
from lit_viz.utils.parts import Part, constructor_parameters, plain_arguments

#: Half precisions by Lightning's name.
_HALF = {
    "16-mixed": torch.float16,
    "16-true": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
}


_TOO_LARGE = 10**18  # counts are stored in 64 bits
#: Iterations: a text of :meth:`LogSchedule.parse`, one number or several.
Schedule = str | int | Sequence[int]


@dataclass(frozen=True)
class LogSchedule:
    """Set of iterations; the last iteration of an image always belongs to it.

    Attributes:
        iterations: explicit iterations.
        every: period, starting at 0; 0 for none.
        geometric: whether 0 and the powers of 2 belong to it.
    """

    iterations: frozenset[int] = frozenset()
    every: int = 0
    geometric: bool = False

    @classmethod
    def parse(cls, given: Schedule) -> LogSchedule:
        """Parse ``"1,50,100,200"``, ``"every:10"``, ``"geometric"`` or ``"last"``, or take a list of iterations."""
        if hasattr(given, "tolist"):  # an array or tensor
            given = given.tolist()
        if isinstance(given, (str, int)):
            text = str(given)
        else:
            text = ",".join(str(int(iteration)) for iteration in given)
        words = text.replace(" ", "")
        if words in ("geometric", "last"):
            return cls(geometric=words == "geometric")
        kind, _, number = words.rpartition(":")
        numbers = number.split(",")
        if not all(n.isdecimal() for n in numbers) or kind not in ("", "every"):
            raise LitVizError(
                f"a log schedule must be a list such as 1,50,100,200, every:10, geometric or last, got '{text}'"
            )
        if kind == "":
            return cls(iterations=frozenset(map(int, numbers)))
        if len(numbers) != 1 or int(number) == 0:
            raise LitVizError(f"every: in a log schedule requires one number of at least 1, got '{text}'")
        return cls(every=int(number))

    def due(self, iteration: int, last: int) -> bool:
        """Return whether an image with ``last`` iterations is logged at ``iteration``."""
        return self.after(iteration - 1, last) == iteration

    def after(self, iteration: int, last: int) -> int:
        """Return the next logged iteration of an image with ``last`` iterations; that from -1 is the first."""
        due = [last, *(k for k in self.iterations if k > iteration)]
        if self.every:
            due.append((iteration // self.every + 1) * self.every)
        if self.geometric:
            due.append(0 if iteration < 0 else 1 << iteration.bit_length())
        return min(due)


def half_precision(precision: object) -> str | None:
    """Return Lightning's name of a half precision; None for another precision."""
    name = str(precision) if str(precision) in _HALF else f"{precision}-mixed"
    return name if name in _HALF else None


class Method(Part, pl.LightningModule):
    """Interface of a method; :class:`~lit_viz.engine.module.ImageTraining` implements the training.

    Args:
        network: frozen network. It is not a submodule: it is neither trained, moved nor saved.
        step_rule: update rule of the images.
        iterations: updates per image.
        slots: images trained at once.
        log_at: iterations at which an image is logged: ``1,50,200``, ``every:10``, ``geometric`` or ``last``. In Python
            also a :class:`LogSchedule`.
        curve_at: iterations at which its metrics are logged.
        views: network inputs per image and evaluation.
        compile: mode of ``torch.compile``, for GPUs; by default there is no compilation.
        devices_mode: whether several devices share the images, or the views of each image.

    Attributes:
        hparams: ``module``, the name of the class, and the arguments, as :meth:`plain_arguments` returns them.
        presentation, verifier: dotted paths of the classes that present the outcomes and compute their evidence, which
            belong to higher layers; subclasses inherit them. By default there is no evidence.
        usual_tasks: public path of a queue of its tasks.
        can_shard: whether the tasks of a queue can be computed by several processes without each other.
        slots: the images in training.
        restarts: times that a task starts again, at most (see :meth:`shortfall`); 0 by default.
        notes: messages to print once before the run.
        advice: advice for an image with a score that is not finite, the end of a sentence.
        ranks: ranks of the run.
        network_error: the last exception of the network that failed single images.

    Raises:
        LitVizError: ``iterations``, ``slots`` or ``views`` is less than 1, or a log schedule is invalid.
    """

    presentation: ClassVar[str | None] = None
    usual_tasks: ClassVar[str] = "lit_viz.ClassTasks"
    verifier: ClassVar[str] = "lit_viz.evidence.verifier.OutcomeVerifier"
    can_shard: ClassVar[bool] = True
    advice = "try a lower learning rate"
    restarts: int = 0

    def __init__(
        self,
        network: Network | nn.Module | str,
        step_rule: StepRule,
        *,
        iterations: int = 200,
        slots: int = 8,
        log_at: Schedule = "every:10",
        curve_at: Schedule = "every:10",
        views: int = 1,
        compile: CompileMode | None = None,
        devices_mode: DevicesMode = "images",
    ) -> None:
        super().__init__()
        self._log_hyperparams = True
        check_at_least_one(iterations=iterations, slots=slots, views=views)
        self.network, self.step_rule = as_network(network), step_rule
        self.iterations, self.capacity, self.views = iterations, slots, views
        self.compile_mode, self.devices_mode = compile, devices_mode
        self.log_at, self.curve_at = LogSchedule.parse(log_at), LogSchedule.parse(curve_at)
        self.slots = Slots()
        self.notes: list[str] = []
        self.ranks = RankGroup()
        self.network_error: NetworkError | None = None

    @property
    def hparams(self) -> Any:
        """The arguments, which loggers list and checkpoints contain."""
        if "_hparams" not in vars(self):
            self._hparams = AttributeDict({"module": type(self).__name__, **self.plain_arguments()})
        return self._hparams

    @property
    def hparams_initial(self) -> Any:
        """A copy of :attr:`hparams`."""
        return deepcopy(self.hparams)

    def plain_arguments(self) -> dict[str, Any]:
        """Return the arguments, including defaults, as a configuration holds them.

        Parts are written as ``class_path`` and ``init_args``, the network by its name. Images in memory are left
        out.
        """
        arguments: dict[str, Any] = {}
        for name, parameter in constructor_parameters(type(self)).items():
            if parameter.default is not parameter.empty:
                arguments[name] = parameter.default
        arguments |= self.arguments
        arguments["network"] = self.network.name
        arguments.pop("images", None)
        plain: dict[str, Any] = plain_arguments(arguments)
        return plain

    # Precision and networks

    @property
    def image_dtype(self) -> torch.dtype:
        """float64 for the precision ``64-true`` of the Trainer, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def network_dtype(self) -> torch.dtype:
        """Dtype of the fast copy: half for ``16-mixed`` and ``bf16-mixed``, else that of the images.

        Outcomes are computed by the original network in its own dtype.
        """
        return _HALF.get("" if self._trainer is None else str(self._trainer.precision), self.image_dtype)

    @property
    def is_half(self) -> bool:
        """Whether the fast copy has half precision, so that its outputs differ from the original's."""
        return self.network_dtype != self.image_dtype

    def make_network(self, layers: Collection[str], device: torch.device, **options: Any) -> FrozenNetwork:
        """Return a fast copy of the network that can read these layers.

        See :meth:`~lit_viz.networks.Network.fast`.
        """
        return self.network.fast(layers, device, self.network_dtype, compiled=self.compile_mode, **options)

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Create the network copies on the device."""

    # Tasks

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """Shape ``(...)`` of the parameters of an image."""

    def expand_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the tasks of a data module with what depends on the method; unchanged if they have it."""
        return tasks

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Validate the task queue before training.

        Raises:
            LitVizError: an input of a task is missing.
        """

    def last_iteration(self, task: Task) -> int:
        """Return the number of updates of a task: its option ``iterations``, or that of the run."""
        return self.iterations if task.iterations is None else task.iterations

    def can_batch(self, task: Task, other: Task, iteration: int) -> bool:
        """Return whether a task that starts at ``iteration`` can share a batch with the task of a slot."""
        return True

    @abstractmethod
    def start(self, task: Task) -> Tensor:
        """Return the initial image ``(...)`` of a task, without a slot dimension.

        Raises:
            LitVizError: the task fails.
        """

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks with fields that depend on their images ``x`` ``(N, ...)``, such as a predicted label.

        A task with an error as its entry fails.
        """
        return list(tasks)

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state of new slots with images ``x`` ``(N, ...)``: that of the step rule and of the method."""
        return self.step_rule.init(x, tasks)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Hook called after these slots were filled."""

    # Optimization

    @abstractmethod
    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate ``x`` with the draws of its iteration; row m belongs to slot ``rows[m]``."""

    def project(self, x: Tensor) -> Tensor:
        """Project updated images ``(N, ...)`` onto their feasible set, in place or not; the identity by default."""
        return x

    # Output

    def snapshot(
        self, n: int, metrics: Mapping[str, float], content: Tensor | Heat | None = None, **fields: Any
    ) -> Snapshot:
        """Return the snapshot of slot n at its current iteration, which counts on after a restart."""
        return Snapshot(self.slots.tasks[n], self.slots.updates(n), metrics, content, **fields)

    def final_metrics(
        self, x: Tensor, rows: Sequence[int], evaluated: Mapping[int, dict[str, float]]
    ) -> list[dict[str, float]]:
        """Return the metrics of the final images of these slots, by default from an evaluation.

        Args:
            x: final images ``(len(rows), ...)``.
            rows: their slots.
            evaluated: metrics of images that were evaluated in this step and not moved, by slot.
        """
        return self.score(x, rows, gradient=False).metrics_by_row()

    def shortfall(self, snapshot: Snapshot) -> float:
        """Return how much a final image lacks to be a success, 0 if it is one.

        The task of another image starts again with other draws, at most :attr:`restarts` times; the image with the
        smallest value is kept.
        """
        return 0.0

    @abstractmethod
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        """Return the snapshots of images ``x`` ``(len(rows), ...)`` in these slots.

        Final snapshots follow :meth:`final_metrics` and hold the outcome.
        """

    def new_record(self, task: Task, **fields: Any) -> Record:
        """Return the record of a task, finished or failed, of the class of the method.

        Args:
            task: the task.
            fields: status, counts, metrics, and the reason of a failure.
        """
        return Record.of(task, **fields)

    @abstractmethod
    def record(self, n: int, snapshot: Snapshot, common: Record) -> Record:
        """Return the record of slot n.

        Args:
            n: slot of a finished task.
            snapshot: its final snapshot.
            common: its :meth:`new_record`, to extend.
        """

    def finished_metrics(self, record: Record) -> dict[str, float]:
        """Return metrics of a finished task. Their means over the finished tasks are logged in every step."""
        return {}


def check_at_least_one(**options: int) -> None:
    """Raise :class:`LitVizError` if the value of an option is less than 1, or too large for 64 bits."""
    for name, value in options.items():
        require(value >= 1, f"{name} must be at least 1", value)
        require(value < _TOO_LARGE, f"{name} must have at most 18 digits", value)
