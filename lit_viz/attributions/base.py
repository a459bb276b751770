"""Base classes of saliency methods: step rules that keep the image and accumulate evaluations."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from lit_viz.attributions.baselines import Baseline, DrawnBaselines
from lit_viz.attributions.terms import PROJECTIONS, record_images
from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.networks.fast import Backprop
from lit_viz.objectives import Logit, Objective
from lit_viz.optim import Evaluate, State, StepRule
from lit_viz.optim.evaluation import LayeredNetwork, bare_evaluate
from lit_viz.optim.rule import never, norm
from lit_viz.rng import Key
from lit_viz.types import Task, seeds_of
from lit_viz.utils.device import to_device, to_list

#: Samples between two tests of the tolerance. Small samples can have a small variance by chance, and the number of
#: evaluations of a map must not depend on the batch.
EVERY = 8
#: Largest relative error that is estimated, of maps of many and of few independent values. Above it the norm of the
#: limit map, which is the smaller part of the squared norm of the map, is not known within a factor of 1.5.
MAX_ERROR, MAX_COARSE_ERROR = 4.0, 1.0
#: Backward of methods of gradients: that of autograd, or the rule for transformers of Mehri et al. 2025
#: (:mod:`~lit_viz.networks.fast.libra`).
GradientRule = Literal["plain", "libra"]


class Attribution(StepRule):
    """Base class of saliency methods.

    ``x`` is the image, which is not modified. The state accumulates the map, so that it is available after any number
    of evaluations (:meth:`attribution`) with an error estimate (:meth:`uncertainty`). One iteration is one evaluation.

    Subclass :class:`Estimator` for a sum over evaluations, and :class:`Sampling` for a mean over random samples. A
    subclass of this class implements :meth:`step` and :meth:`attribution`.

    Attributes:
        title: title in figures, of this class only; its registered name by default.
        evaluations: default number of evaluations per map.
        spatial: maps are ``(N, 1, H, W)``, one channel for all colors, instead of ``(N, C, H, W)``.
        networks: copies of the network that are evaluated (see :class:`~lit_viz.optim.Evaluate`).
        layers: layers with the activations to read.
        objective: explained score; default: the target's logit.
        tolerance: a map is done when its ``error`` is at most this value; None uses all evaluations.
        every: number of evaluations between two tests of the tolerance, independent of the batch; None: every step.
        batch: maximum number of inputs per evaluation over all slots; at least one per slot.
        baseline: input that the image is compared with, if any.
        reducer: default channel reducer, a key of :data:`~lit_viz.attributions.reducers.REDUCERS`.
        signed: whether a negative value is evidence against the class, which pictures show if it is strong.
    """

    title: ClassVar[str] = ""
    evaluations: int = 1
    spatial: bool = False
    networks: tuple[Backprop, ...] = ("plain",)
    layers: tuple[str, ...] = ()
    objective: Objective = Logit()
    tolerance: float | None = None
    every: ClassVar[int | None] = None
    batch: int = 16
    baseline: Baseline | DrawnBaselines | None = None
    reducer: ClassVar[str] = "max_abs"
    signed: ClassVar[bool] = False

    @property
    def fixed(self) -> bool:
        """Whether the number of evaluations is defined by the method, independent of ``iterations`` of the run."""
        return self.evaluations == 1

    @property
    def recorded(self) -> str | None:
        """What a run records of each evaluation: a key of :data:`~lit_viz.attributions.terms.TERM_SHAPES`, if any."""
        return None

    def bind(self, classifier: Network) -> None:
        """Validate the method for a network and read its properties; called before the first evaluation.

        Raises:
            LitVizError: if the method does not apply to the network.
        """
        if self.baseline is not None:
            self.baseline.bind(classifier)
        for network in self.networks:
            if network != "plain":
                classifier.fast(backprop=network)

    def record_fields(self) -> dict[str, Any]:
        """Return the method's fields of the record of a map; called after :meth:`bind`."""
        return {} if self.baseline is None else self.baseline.record_fields()

    def map_fields(self, state: State, n: int) -> dict[str, Any]:
        """Return the fields of the record of the map in slot n."""
        return {}

    def default_evaluations(self, shape: Sequence[int]) -> int:
        """Return the default number of evaluations per map for an input ``(C, H, W)``, or any other shape."""
        return self.evaluations

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the common part of the state: the seeds of the tasks ``(N,)``."""
        return {"seed": to_device(seeds_of(tasks), x.device)}

    def zero_map(self, x: Tensor) -> Tensor:
        """Return zeros in the shape of the maps of ``x``."""
        return torch.zeros_like(x[:, :1] if self.spatial else x)

    def advance(self, state: State) -> Tensor:
        """Return the number of evaluations of the next step per slot ``(N,)``, at most until the next snapshot or test
        of the tolerance."""
        per_slot = max(1, self.batch // len(state["iteration"]))
        advance = (state["until"] - state["iteration"]).clamp(1, per_slot)
        if self.tolerance is None or self.every is None:
            return advance
        return torch.minimum(advance, self.every - state["iteration"] % self.every)

    @abstractmethod
    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Compute the maps after ``state["iteration"]`` evaluations, signed if the method is.

        Args:
            x: images ``(N, C, H, W)``, or any explained input.
            state: of these slots.

        Returns:
            Shape of ``x``, or ``(N, 1, H, W)`` for spatial methods; zero before the first evaluation.
        """

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Estimate the error of the maps, ``(N,)`` per name; empty for exact methods.

        The key ``error`` is relative and compared with ``tolerance``; infinite if it can't be estimated yet. Other keys
        are fields of the record, such as ``standard_error`` and ``completeness``.
        """
        return {}

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps satisfy the tolerance, ``(N,)`` bool; all False without one."""
        if self.tolerance is None or (error := self.uncertainty(x, state).get("error")) is None:
            return never(x)
        return (error <= self.tolerance) & (state["iteration"] > 0) & (state["iteration"] % (self.every or 1) == 0)


class Estimator(Attribution):
    """Base class of maps that are a sum of contributions of independent evaluations.

    Subclasses implement :meth:`accumulate` and :meth:`attribution`.
    """

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        done = self.converged(x, state) | (state["iteration"] >= state["iterations"])
        counts = self.advance(state).masked_fill(done, 0)
        completed = to_list(state["iteration"])
        slots: list[int] = []
        numbers: list[int] = []
        for n, count in enumerate(to_list(counts)):
            slots += [n] * count
            numbers += range(completed[n], completed[n] + count)
        if not slots:
            return x, state, done
        device = x.device
        state = self.accumulate(x, dict(state), to_device(slots, device), to_device(numbers, device), evaluate)
        return x, state, done

    @abstractmethod
    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the network and add the contributions to the state.

        Args:
            x: images ``(N, ...)``.
            state: of the slots; the dictionary is a copy, its tensors must not be modified in place.
            slots: ``(M,)``, slot of each evaluation, ascending.
            numbers: ``(M,)``, number of each evaluation within its map, from 0.
            evaluate: evaluates the network.
        """


class Sampling(Estimator):
    """Base class of maps that are the mean of independent samples, one per evaluation.

    Subclasses implement :meth:`samples`. The uncertainty is the L2 error of the map, relative to the L2 norm of the
    limit map of unlimited samples. Both are estimated from the samples: with the variance V of the mean, summed over
    the pixels, the expectation of the mean's squared norm is that of the limit plus V.

    Attributes:
        skipped: number of evaluations at the start that give no sample.
        fewest: number of samples from which the error is estimated.
        max_error: largest error that is estimated.
    """

    skipped: ClassVar[int] = 0
    fewest: ClassVar[int] = 4
    max_error: ClassVar[float] = MAX_ERROR
    every: ClassVar[int | None] = EVERY

    @abstractmethod
    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        """Compute one sample per evaluation, ``(M, ...)``, zero if skipped; arguments as for :meth:`accumulate`."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return zero means, and zero sums of squared deviations ``(N,)``, averaged over the pixels."""
        return super().init(x, tasks) | {"mean": self.zero_map(x), "squares": x.new_zeros(len(x))}

    @property
    def recorded(self) -> str | None:
        return PROJECTIONS

    def pattern(self, maps: Tensor) -> Tensor:
        """Return the part of maps with an estimated error; a linear projection, by default the identity."""
        return maps

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        samples = self.samples(x, state, slots, numbers, evaluate).contiguous()
        record_images(state, slots, numbers, samples)
        state["mean"], residuals = welford_update(state["mean"], slots, numbers, samples, self.skipped)
        state["squares"] = add_rows(state["squares"], slots, mean_square(self.pattern(residuals)))
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        return state["mean"]

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return ``standard_error`` in units of the map, and ``error``, the same relative to the limit map.

        The standard error is ``sqrt(s^2 / n)`` with the unbiased variance s^2 of the samples, as root mean square over
        the pixels; infinite for fewer than two samples. ``error`` is infinite for fewer than ``fewest``, and above
        ``max_error``, where noise conceals the limit.
        """
        count = (state["iteration"] - self.skipped).double()
        variance = torch.where(count >= 2, state["squares"] / (count * (count - 1)), torch.inf)
        error = self.error_of(state["mean"], variance, count)
        return {"standard_error": variance.sqrt().to(x.dtype), "error": error.to(x.dtype)}

    def error_of(self, maps: Tensor, variance: Tensor, count: Tensor) -> Tensor:
        """Return the relative error of maps ``(N, ...)``, from variance and number of the samples ``(N,)``."""
        error = relative_error(variance, mean_square(self.pattern(maps).double()), self.max_error)
        return error.masked_fill((count < self.fewest) & (variance > 0), torch.inf)


def networks_of(backprop: GradientRule) -> tuple[Backprop, ...]:
    """Return the networks of a method that evaluates one copy, with this backward."""
    require(backprop in get_args(GradientRule), "backprop must be plain or libra", repr(backprop))
    return (backprop,)


def relative_error(variance: Tensor, squares: Tensor, max_error: float) -> Tensor:
    """Return the error of maps relative to the norm of the limit map, infinite above ``max_error``; from the variance
    and the mean square of the maps over the pixels, ``(N,)`` each."""
    signal = squares - variance  # the expectation of the mean square is that of the limit map plus the variance
    resolved = (signal > 0) & (signal * max_error**2 >= variance)
    return torch.where(resolved, (variance / signal).sqrt(), torch.inf).masked_fill(variance == 0, 0.0)


def completeness(maps: Tensor, difference: Tensor, evaluations: Tensor) -> dict[str, Tensor]:
    """Return ``completeness``, ``|sum(map) - difference|`` ``(N,)``, and ``error``, the same relative to the difference
    of the scores of image and baseline; infinite before the first evaluation."""
    residual = (maps.flatten(1).sum(1) - difference).abs()
    residual = torch.where(evaluations > 0, residual, torch.inf)
    return {"completeness": residual, "error": relative(residual, difference)}


def mean_square(maps: Tensor) -> Tensor:
    """Return the mean square of maps over the pixels, ``(N,)``."""
    return norm(maps).square() / maps[0].numel()


def welford_update(
    mean: Tensor, slots: Tensor, numbers: Tensor, rows: Tensor, skipped: int = 0
) -> tuple[Tensor, Tensor]:
    """Update means ``(N, ...)`` with rows ``(M, ...)``, in order; return the means and the recursive residuals.

    The update of Welford 1962 (Technometrics 4:419): with ``d`` the difference of the k-th row and the mean of the
    previous ones, the mean changes by ``d / k``. The squared residuals ``d sqrt((k - 1) / k)`` sum to the sum of
    squared deviations from the mean. The first ``skipped`` rows of each mean are ignored; their residual is zero.
    """
    mean, residuals = mean.clone(), torch.empty_like(rows, dtype=mean.dtype, memory_format=torch.contiguous_format)
    for row, residual, n, number in zip(rows, residuals, to_list(slots), to_list(numbers), strict=True):
        k = number + 1 - skipped
        if k < 1:
            residual.zero_()
            continue
        residual.copy_(row).sub_(mean[n])
        mean[n].add_(residual, alpha=1 / k)
        residual.mul_(math.sqrt((k - 1) / k))
    return mean, residuals


def keys(state: State, slots: Tensor, numbers: Tensor) -> list[Key]:
    """Return the keys of the random draws: seed of the task and number of the evaluation."""
    seeds = to_list(state["seed"])
    return [Key(seeds[n], number) for n, number in zip(to_list(slots), to_list(numbers), strict=True)]


def gather_rows(images: Tensor, slots: Tensor) -> Tensor:
    """Return ``images[slots]``, without a copy if each slot occurs once, in order."""
    if _is_identity(slots, len(images)):
        return images
    return images.index_select(0, slots)


def add_rows(total: Tensor, slots: Tensor, rows: Tensor) -> Tensor:
    """Return ``total`` ``(N, ...)`` with ``rows`` ``(M, ...)`` added to their slots.

    Rows are added one after another, so the sum does not depend on the number of evaluations per step.
    """
    if _is_identity(slots, len(total)):
        return total + rows
    total = total.clone()
    for n, row in zip(to_list(slots), rows, strict=True):
        total[n].add_(row)
    return total


def _is_identity(slots: Tensor, count: int) -> bool:
    return to_list(slots) == list(range(count))


def relative(amount: Tensor, reference: Tensor) -> Tensor:
    """Divide ``amount`` ``(N,)`` by the maximum absolute value of each row of ``reference``; 0 / 0 is 0."""
    return torch.where(amount == 0, 0.0, amount / reference.reshape(len(amount), -1).abs().amax(1))


def attribute(
    method: Attribution,
    network: LayeredNetwork | Mapping[str, LayeredNetwork],
    x: Tensor,
    targets: Tensor | Sequence[int],
    *,
    evaluations: int | None = None,
    seeds: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute maps with a plain loop, without a run; the reference implementation for tests of runs.

    Args:
        method: saliency method.
        network: network, or a mapping if the method evaluates several (see :attr:`Attribution.networks`).
        x: inputs ``(N, ...)`` of any shape that method and network accept.
        targets: ``(N,)`` class indices.
        evaluations: per map; default: :meth:`Attribution.default_evaluations`.
        seeds: of the draws, one per row; default 0, 1, 2 ...
        against: ``(N,)`` indices of classes that the targets are contrasted with.

    Returns:
        The maps (see :meth:`Attribution.attribution`) and their uncertainty.
    """
    if evaluations is None:
        evaluations = method.default_evaluations(x.shape[1:])
    (last,) = attributions_after(method, network, x, targets, [evaluations], seeds=seeds, against=against)
    return last


def attributions_after(
    method: Attribution,
    network: LayeredNetwork | Mapping[str, LayeredNetwork],
    x: Tensor,
    targets: Tensor | Sequence[int],
    counts: Sequence[int],
    *,
    seeds: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the maps and their uncertainty after each of these numbers of evaluations, ascending.

    Each number continues the evaluations of the one before. If the evaluations depend on their number (integrated
    gradients with fixed nodes), only a single number gives a map. Other arguments as for :func:`attribute`.
    """
    if not isinstance(network, Mapping):
        network = dict.fromkeys(map(str, method.networks), network)
    if seeds is None:
        seeds = range(len(x))
    classes = torch.as_tensor(targets, device=x.device)
    tasks = []
    for i, (seed, target) in enumerate(zip(seeds, classes, strict=True)):
        tasks.append(Task(i, f"input {i}", seed, target=int(target)))
    goals = {"targets": classes}
    if against is not None:
        goals["against"] = torch.as_tensor(against, device=x.device)
    evaluate = bare_evaluate(method.objective, network, goals, method.layers)
    zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
    state = method.init(x, tasks) | {"iteration": zeros}
    for count in counts:
        total, done = zeros + count, zeros.bool()
        state |= {"iterations": total, "until": total.clone()}
        with torch.no_grad():
            while bool((state["iteration"] < count).any()) and not bool(done.all()):
                advance = method.advance(state)
                _, state, done = method.step(x, state, evaluate)
                state["iteration"] = state["iteration"] + advance.masked_fill(done, 0)
        yield method.attribution(x, state), method.uncertainty(x, state)
