"""Gradient ascent, plain, normalized, or by an elementwise optimizer of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, first_line
from lit_viz.optim.evaluation import Evaluate
from lit_viz.optim.rule import LearningRate, State, StepRule, learning_rate, never, per_slot, unit
from lit_viz.types import Task
from lit_viz.utils.device import to_cpu, to_device, to_list


class GradientAscent(StepRule):
    """``x <- x + lr * g`` with the gradient g of the score.

    Args:
        lr: learning rate, a number or a schedule.
    """

    def __init__(self, lr: float | LearningRate) -> None:
        self.lr = learning_rate(lr)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return self.lr.init(x, tasks)

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        gradient = evaluate(x).gradient
        return x + per_slot(self.lr(state), x) * self.direction(gradient), state, never(x)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient


class NormalizedAscent(GradientAscent):
    """``x <- x + lr * g / ||g||_2``: steps of L2 norm ``lr``; zero where the gradient is zero.

    Args:
        lr: length of a step, a number or a schedule.
    """

    def direction(self, gradient: Tensor) -> Tensor:
        return unit(gradient)


class Adapted(StepRule):
    """Step rule of a torch optimizer, with separate moments, bias correction and learning rate for each slot.

    The optimizer is rebuilt at every step around views of the slots, at about 10 us per slot.

    Args:
        optimizer: class in ``torch.optim`` with a ``maximize`` option.
        lr: learning rate, a number or a schedule.
        options: other options of the optimizer.

    Raises:
        LitVizError: the optimizer couples the images, or does not accept the options.
    """

    def __init__(self, optimizer: type[torch.optim.Optimizer], lr: float | LearningRate, **options: Any) -> None:
        if optimizer is torch.optim.LBFGS:
            raise LitVizError("LBFGS is not supported, its line search couples all images: use Adam, SGD or RMSprop")
        self.optimizer, self.options = optimizer, options
        self.lr = learning_rate(lr)
        try:
            self._make_optimizer([torch.zeros(1)], [1.0])
        except (ValueError, TypeError) as error:
            raise LitVizError(f"invalid options of {optimizer.__name__}: {first_line(error)}") from error
        self._keys: tuple[str, ...] | None = None  # of the optimizer's state, once it is known
        self._cpu_keys: tuple[str, ...] = ()  # of these, what torch keeps and reads on the CPU

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        state = self.lr.init(x, tasks)
        for key, value in self._zero_state(x[0]).items():
            state[key] = torch.stack([value] * len(x))
        return state

    def _zero_state(self, image: Tensor) -> dict[str, Tensor]:
        """Return zeros in the shape of the optimizer's state after a step on a copy of the image."""
        optimizer = self._make_optimizer([image.detach().clone()], [0.0])
        parameter = optimizer.param_groups[0]["params"][0]
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        zeros: dict[str, Tensor] = {}
        cpu_keys: list[str] = []
        for key, value in optimizer.state[parameter].items():
            if not torch.is_tensor(value):
                continue
            zeros[key] = torch.zeros_like(value, device=image.device)
            if value.device != image.device:
                cpu_keys.append(key)
        self._keys, self._cpu_keys = tuple(zeros), tuple(cpu_keys)
        return zeros

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        return *self.ascend(x, evaluate(x).gradient, state), never(x)

    def ascend(self, x: Tensor, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """Return ``x`` ``(N, ...)`` and the state after one ascent step.

        Rows with ``iteration`` 0 start with an empty optimizer state.
        """
        # The fused kernels of torch require images and gradients of one memory layout; gradients of a network may be
        # channels-last.
        x, gradient = x.clone(memory_format=torch.contiguous_format), gradient.contiguous()
        optimizer = self._make_optimizer(list(x), to_list(self.lr(state)))
        keys = self._keys
        if keys is None:  # no init in a resumed run
            keys = tuple(self._zero_state(x[0]))
        rows = {}
        for key in keys:
            values = state[key]
            if key in self._cpu_keys:
                values = to_cpu(values)
            rows[key] = values.clone()
        parameters = [group["params"][0] for group in optimizer.param_groups]
        for n, (parameter, iteration) in enumerate(zip(parameters, to_list(state["iteration"]), strict=True)):
            parameter.grad = gradient[n]
            if iteration > 0:
                optimizer.state[parameter] = {key: rows[key][n] for key in keys}
        optimizer.step()
        for n, parameter in enumerate(parameters):
            for key in keys:
                value = optimizer.state[parameter][key]
                if value.data_ptr() != rows[key][n].data_ptr():  # not updated in place
                    rows[key][n] = value
        state = dict(state)
        for key, values in rows.items():
            state[key] = to_device(values, x.device)
        return x, state

    def _make_optimizer(self, rows: list[Tensor], rates: list[float]) -> torch.optim.Optimizer:
        groups = []
        for row, rate in zip(rows, rates, strict=True):
            groups.append({"params": [row], "lr": rate})
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
