"""torch's elementwise optimizers as step rules: a parameter and a group a slot, so that moments, bias correction and
learning rate are each image's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, first_line
from lit_viz.optim.evaluation import Evaluate
from lit_viz.optim.rule import State, StepRule, never
from lit_viz.optim.schedules import LearningRate, learning_rate
from lit_viz.types import Task
from lit_viz.utils.device import to_cpu, to_device, to_list

# They look at all parameters at once, or need what an image does not have.
_REFUSED = {
    "LBFGS": "it couples all images by one line search",
    "SparseAdam": "it wants sparse gradients",
    "Muon": "it wants matrices, not images",
}


class Adapted(StepRule):
    """A torch optimizer, rebuilt around views of the slots at every step (some ten microseconds a slot).

    Args:
        optimizer: a class of ``torch.optim`` with a ``maximize`` option.
        lr: learning rate, a number or a schedule over the image's own iteration.
        options: the optimizer's other options.

    Raises:
        LitVizError: for an optimizer that couples the images.
    """

    def __init__(self, optimizer: type[torch.optim.Optimizer], lr: float | LearningRate, **options: Any) -> None:
        name = optimizer.__name__
        if name in _REFUSED:
            raise LitVizError(f"{name} can't train images in slots: {_REFUSED[name]}; use Adam, NAdam, SGD or RMSprop.")
        self.optimizer = optimizer
        self.lr = learning_rate(lr)
        self.options = options
        try:
            self._optimizer([torch.zeros(1)], [1.0])
        except (ValueError, TypeError) as error:
            raise LitVizError(f"{name} takes no such options: {first_line(error)}.") from error
        self._own: tuple[str, ...] | None = None  # what the optimizer keeps of an image, once it is known
        self._here: tuple[str, ...] = ()  # of that, what torch keeps on the processor, and reads there in each step

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate and room for the optimizer's state, whose shapes a step on a throw-away image tells."""
        room = {key: torch.stack([value] * len(x)) for key, value in self._room(x[0]).items()}
        return {**self.lr.init(x, tasks), **room}

    def _room(self, image: Tensor) -> dict[str, Tensor]:
        trial = self._optimizer([image.detach().clone()], [0.0])
        parameter = trial.param_groups[0]["params"][0]
        parameter.grad = torch.zeros_like(parameter)
        trial.step()
        kept = {key: value for key, value in trial.state[parameter].items() if torch.is_tensor(value)}
        self._own = tuple(kept)
        self._here = tuple(key for key, value in kept.items() if value.device != image.device)
        return {key: torch.zeros_like(value, device=image.device) for key, value in kept.items()}

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate once and let the optimizer take one step up."""
        return *self.climb(x, evaluate(x).gradient, state), never(x)

    def climb(self, x: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """Return ``x`` ``(N, ...)`` after a step up the gradient, and the state with what the optimizer remembers.

        ``iteration`` says how many steps a row has made; one that has made none begins with an empty memory.
        """
        # Rows and slopes of one layout: torch's fused kernels walk through both alike, and a network's slopes are
        # channels-last.
        x, gradient = x.clone(memory_format=torch.contiguous_format), gradient.contiguous()
        optimizer = self._optimizer(list(x), to_list(self.lr(state)))
        own = self._own if self._own is not None else tuple(self._room(x[0]))  # a resume does without init
        room = {key: (to_cpu(state[key]) if key in self._here else state[key]).clone() for key in own}
        parameters = [group["params"][0] for group in optimizer.param_groups]
        for n, (parameter, iteration) in enumerate(zip(parameters, to_list(state["iteration"]), strict=True)):
            parameter.grad = gradient[n]
            if iteration > 0:  # a new image gets the optimizer's own fresh state
                optimizer.state[parameter] = {key: room[key][n] for key in own}
        optimizer.step()
        for n, parameter in enumerate(parameters):
            for key in own:
                value = optimizer.state[parameter][key]
                if value.data_ptr() != room[key][n].data_ptr():  # it was not updated in place
                    room[key][n] = value
        return x, {**state, **{key: to_device(value, x.device) for key, value in room.items()}}

    def _optimizer(self, rows: list[Tensor], rates: list[float]) -> torch.optim.Optimizer:
        groups = [{"params": [row], "lr": rate} for row, rate in zip(rows, rates, strict=True)]
        return self.optimizer(groups, maximize=True, **self.options)  # type: ignore[call-arg]


class Adam(Adapted):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980)."""

    def __init__(
        self, lr: float | LearningRate = 0.05, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(torch.optim.Adam, lr, betas=betas, eps=eps, fused=True)


class NAdam(Adapted):
    """Adam with Nesterov momentum (Dozat 2016)."""

    def __init__(
        self, lr: float | LearningRate = 0.05, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(torch.optim.NAdam, lr, betas=betas, eps=eps)


class SGD(Adapted):
    """Gradient ascent with momentum."""

    def __init__(self, lr: float | LearningRate = 1.0, momentum: float = 0.9, nesterov: bool = False) -> None:
        super().__init__(torch.optim.SGD, lr, momentum=momentum, nesterov=nesterov)


class RMSprop(Adapted):
    """RMSprop (Hinton 2012)."""

    def __init__(self, lr: float | LearningRate = 0.01, alpha: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(torch.optim.RMSprop, lr, alpha=alpha, eps=eps)
