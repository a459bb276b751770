"""Captum's computation of each saliency method, on a copy of the original network.

Methods that Captum lacks are computed by the original network: RISE by its own formula here, others by lit_viz's.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import captum.attr as attr
import torch
from captum.attr._core.gradient_shap import InputBaselineXGradient
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lit_viz import attributions as own
from lit_viz.attributions import rise
from lit_viz.attributions.baselines import DrawnBaselines
from lit_viz.attributions.feature_ablation import Ablation
from lit_viz.attributions.integrated_gradients import gauss_legendre
from lit_viz.attributions.smoothgrad import noise
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.depthwise import FastDepthwise
from lit_viz.evidence.saliency.network_copies import (
    NetworkCopies,
    OriginalNetwork,
    UnsharedNetwork,
    Weights,
    add_rounding,
)
from lit_viz.networks import FrozenNetwork, Network, isolation
from lit_viz.networks.batch_norms import LaidOutGradients
from lit_viz.networks.fast.libra import LibraNetwork
from lit_viz.objectives import Logit, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim import State
from lit_viz.optim.evaluation import LayeredNetwork
from lit_viz.optim.rule import per_slot
from lit_viz.rng import Key
from lit_viz.runs import evidence as run_evidence
from lit_viz.types import Task

_BATCH = 8  # inputs per forward pass, so that memory does not grow with the number of samples
_MOST_CLASSES = 1 << 20  # columns of replayed scores, which take no memory
_INFINITE = 1e12  # weight of the two coalitions that a regression must fit; Captum's 1e6 leaves an error of 1e-6
#: Attributes that a subclass may override without changing what the method computes. The objective is compared apart.
_SETTINGS = {
    "batch", "evaluations", "objective", "record_fields", "recorded", "reducer", "title", "tolerance", "uncertainty",
}  # fmt: skip


class _Float64(Tensor):
    """Scores that stay in float64 where Captum rounds them to float32."""

    def float(self, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        return self.as_subclass(Tensor)


class _LeastSquares:
    """Weighted linear regression in float64; Captum's own requires scikit-learn."""

    def fit(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        ((inputs, outputs, weights),) = batches
        design = torch.cat([inputs.double(), torch.ones_like(inputs[:, :1], dtype=torch.float64)], 1)
        roots = weights.double().sqrt()[:, None]
        centered = outputs.double() - outputs[weights.argmax()]  # less rounding; only the intercept changes
        # By singular values, on the CPU: of the solutions for few coalitions, KernelShap has that of least norm.
        weighted, expected = (roots * design).cpu(), (roots * centered[:, None]).cpu()
        self._solution = torch.linalg.lstsq(weighted, expected, driver="gelsd").solution.to(inputs.device)

    def representation(self) -> Tensor:
        values: Tensor = self._solution[:-1, 0]
        return values


@dataclass(frozen=True)
class CaptumReference:
    """A saliency map to be computed by Captum.

    Attributes:
        method: the method of lit_viz.
        network: the network.
        x: photograph ``(1, C, H, W)`` in [0, 1], in the precision of the computation.
        target: class index.
        seed: of the task's random draws.
        evaluations: number of evaluations of the map.
        against: index of the class that the target is contrasted with, if any.
        weights: change of the weights of the network.
        copies: copies of the network, which references share.
        replay: recorded scores that replace the network's, if any.
        deadline: time of the monotonic clock after which a forward of the network raises TimeoutError.
    """

    method: own.Attribution
    network: Network
    x: Tensor
    target: int
    seed: int
    evaluations: int
    against: int | None = None
    weights: Weights = field(default_factory=Weights)
    copies: NetworkCopies = field(default_factory=dict, repr=False, compare=False)
    replay: Replay | None = None
    deadline: float = math.inf

    @cached_property
    def counterpart(self) -> Counterpart:
        """What computes the map, which the method must have."""
        counterpart = counterpart_of(self.method)
        assert counterpart is not None
        return counterpart

    @cached_property
    def given(self) -> nn.Module:
        """The network that Captum is given: the copy, or the replay of its scores."""
        return self.replay or self.original

    @cached_property
    def original(self) -> OriginalNetwork:
        """The copy of the network."""
        gamma = getattr(self.method.objective, "gamma", 1.0)
        is_alone = self.against is None and getattr(self.method.objective, "target", None) is None
        network = OriginalNetwork(
            self.network,
            self.x.dtype,
            libra="libra" in self.method.networks,
            against=self.against,
            gamma=gamma,
            weights=self.weights,
            copies=self.copies,
            column=self.target if is_alone else None,
        )
        return network.to(isolation.device_of(self.network.original))

    @property
    def hooked(self) -> nn.Module:
        """The given network with a module for each call of a non-linear function, which Captum hooks."""
        return UnsharedNetwork(self.given, self.x)

    @property
    def layer(self) -> nn.Module:
        """The layer of the copy that the method reads."""
        return self.original.copy.get_submodule(self.method.layers[0])

    @property
    def baseline(self) -> Tensor:
        """The baseline of the method."""
        baseline = self.method.baseline
        assert baseline is not None
        assert not isinstance(baseline, DrawnBaselines)
        return baseline(self.x, [self.seed])

    @cached_property
    def state(self) -> State:
        """The initial state of the method, from which its draws are made."""
        return self.method.init(self.x, [Task(0, "image", self.seed)])

    def scores(self, x: Tensor) -> Tensor:
        """Return the explained scores ``(M,)`` of inputs ``(M, C, H, W)``."""
        if self.replay is not None:
            return self.replay.next(x)
        count = len(x)
        targets = torch.full((count,), self.target, device=x.device)
        against = None if self.against is None else torch.full((count,), self.against, device=x.device)
        return evaluate_objective(self.method.objective, Outputs(self.original.scores(x), targets, against=against))

    def with_rounding(self, seed: int, steps: int = 1) -> CaptumReference:
        """Return the reference with photograph and weights perturbed by random rounding errors."""
        return replace(self, x=add_rounding(self.x, seed, steps), weights=Weights(seed, steps))

    def with_evaluations(self, limit: int) -> CaptumReference:
        """Return the reference with at most ``limit`` evaluations, or as many as the method's map requires."""
        if isinstance(self.method, Ablation):
            return self
        if isinstance(self.method, own.KernelShap):
            limit = max(limit, self.method.least_evaluations)
        return replace(self, evaluations=min(self.evaluations, limit))

    @property
    def formula_rounding(self) -> float:
        """Error of Captum's own formula in float64, relative to the map's maximum.

        Captum stores quadrature weights and occlusion maps in float32.
        """
        if isinstance(self.method, own.IntegratedGradients):
            return float(2.0**-24 / self.method.nodes(self.evaluations) ** 0.5)
        if isinstance(self.method, own.Occlusion):
            return 2.0**-23
        return 0.0

    def compute(self) -> Tensor:
        """Return the map on the CPU, in the shape of lit_viz's map. The global random state is preserved."""
        with self.computing():
            return self.counterpart.compute(self).detach().cpu()

    def terms(self, numbers: Tensor) -> Tensor:
        """Return the terms ``(M, C, H, W)`` of the map of the evaluations ``numbers`` ``(M,)``, on the CPU."""
        assert self.counterpart.terms is not None
        with self.computing():
            return self.counterpart.terms(self, numbers.to(self.x.device)).detach().cpu()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Preserve the global random state, and compute with gradients in full float32, in the body."""
        with (
            isolation.random_state_preserved(self.network.original),
            isolation.full_float32(),
            torch.enable_grad(),
            FastDepthwise(),
            LaidOutGradients(),
            register_module_forward_pre_hook(self._check_time),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
            warnings.filterwarnings("ignore", r"\s*Setting (forward, )?backward hooks")
            yield

    def _check_time(self, *_: Any) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError("the time limit of the comparison is over")


class Replay(nn.Module):
    """Recorded scores in place of a network's, in the order in which a method requests them.

    Args:
        scores: recorded scores ``(n,)`` of all evaluations, by number.
        order: numbers of the evaluations in the order of the requests.
        kept: numbers of the evaluations with inputs that are kept.

    Attributes:
        inputs: the inputs ``(C, H, W)`` by number.
    """

    def __init__(self, scores: Tensor, order: Tensor, kept: Tensor) -> None:
        super().__init__()
        self._scores, self._order, self._kept = scores, order.tolist(), frozenset(kept.tolist())
        self._requested = 0
        self.inputs: dict[int, Tensor] = {}

    def next(self, x: Tensor) -> Tensor:
        """Return the scores ``(M,)`` of the next inputs ``(M, C, H, W)``."""
        numbers = self._order[self._requested : self._requested + len(x)]
        self._requested += len(x)
        for number, image in zip(numbers, x, strict=True):
            if number in self._kept:
                self.inputs[number] = image.detach().clone()
        return self._scores[numbers].to(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores in all columns of logits, of which Captum reads one."""
        return self.next(x)[:, None].expand(-1, _MOST_CLASSES)


def _noise_tunnel(kind: str, r: CaptumReference) -> Tensor:
    """Return Captum's map of the noise of lit_viz.

    NoiseTunnel draws from the global random state: it gets noise of zero width, and the forward function adds that of
    lit_viz's samples, in their order.
    """
    assert isinstance(r.method, own.SmoothGrad)
    n = r.evaluations
    samples = iter(noise([Key(r.seed, k) for k in range(n)], r.x, r.method.sigma))

    def forward(x: Tensor) -> Tensor:
        logits: Tensor = r.given(x + torch.stack([next(samples) for _ in range(len(x))]))
        return logits

    tunnel = attr.NoiseTunnel(attr.Saliency(forward))
    options = {"nt_samples": n, "nt_samples_batch_size": _BATCH, "stdevs": 0.0, "target": r.target, "abs": False}
    result: Tensor = tunnel.attribute(r.x, nt_type=kind, **options)
    return result * (n / (n - 1) if kind == "vargrad" and n > 1 else 1.0)  # Captum's variance is biased


def _noisy_gradients(r: CaptumReference, numbers: Tensor) -> Tensor:
    assert isinstance(r.method, own.SmoothGrad)
    noisy = r.x + noise([Key(r.seed, k) for k in numbers.tolist()], r.x, r.method.sigma)
    gradients: Tensor = attr.Saliency(r.given).attribute(noisy, r.target, abs=False)
    return gradients


def _path_terms(r: CaptumReference, start: Tensor, end: Tensor, positions: Tensor) -> Tensor:
    """Return ``(end - start) * gradient`` at positions ``(M,)`` between both ``(M, C, H, W)``, by Captum.

    Captum draws the positions from the global random state: the forward function replaces its points with these.
    """
    points = start.lerp(end, per_slot(positions, end))
    product = InputBaselineXGradient(lambda z: r.given(points + (z - z.detach())))
    terms: Tensor = product.attribute(end, start, r.target).detach()
    return terms


def _path_terms_of_nodes(r: CaptumReference, numbers: Tensor) -> Tensor:
    positions, _ = _nodes(r)
    start, end = r.baseline.expand(len(numbers), -1, -1, -1), r.x.expand(len(numbers), -1, -1, -1)
    return _path_terms(r, start, end, positions.to(numbers.device)[numbers])


def _nodes(r: CaptumReference) -> tuple[Tensor, Tensor]:
    """Return positions and weights of Captum's nodes, float64 ``(n,)`` each, in the order of lit_viz."""
    weights_of, positions_of = approximation_parameters("gausslegendre")
    order = torch.tensor(gauss_legendre(r.evaluations), dtype=torch.float64)[:, 0].argsort().argsort()
    positions = torch.tensor(positions_of(r.evaluations), dtype=torch.float64)
    weights = torch.tensor(weights_of(r.evaluations), dtype=torch.float64)
    return positions[order], weights[order]


def _integrated_gradients(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.IntegratedGradients)
    steps = {"n_steps": r.method.nodes(r.evaluations), "method": "gausslegendre", "internal_batch_size": _BATCH}
    return attr.IntegratedGradients(r.given).attribute(r.x, r.baseline, r.target, **steps)


def _input_x_gradient(r: CaptumReference) -> Any:
    """Return the map of the difference from the baseline, which is Captum's input."""
    return attr.InputXGradient(lambda z: r.given(r.baseline + z)).attribute(r.x - r.baseline, r.target)


def _grad_cam(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.GradCAM)
    cam: Any = attr.LayerGradCam(r.given, r.layer).attribute(r.x, r.target, relu_attributions=r.method.relu)
    return attr.LayerAttribution.interpolate(cam, tuple(r.x.shape[2:]), "bilinear")


def _guided_grad_cam(r: CaptumReference) -> Any:
    return attr.GuidedGradCam(r.hooked, r.layer).attribute(r.x, r.target, interpolate_mode="bilinear")


def _batches(r: CaptumReference) -> Iterator[Tensor]:
    """Yield the numbers of the evaluations in batches ``(M,)``."""
    for first in range(0, r.evaluations, _BATCH):
        yield torch.arange(first, min(first + _BATCH, r.evaluations), device=r.x.device)


def _gradient_shap(r: CaptumReference) -> Tensor:
    """Return the mean of Captum's products; its GradientShap evaluates all samples in one batch."""
    total = torch.zeros_like(r.x)
    for numbers in _batches(r):
        total += _drawn_path_terms(r, numbers).sum(0, keepdim=True)
    return total / r.evaluations


def _drawn_path_terms(r: CaptumReference, numbers: Tensor) -> Tensor:
    assert isinstance(r.method, own.GradientShap)
    start, end, positions = r.method.draw(r.x, r.state, torch.zeros_like(numbers), numbers)
    return _path_terms(r, start, end.expand_as(start), positions)


def _deep_lift(r: CaptumReference) -> Any:
    return attr.DeepLift(r.hooked).attribute(r.x, r.baseline, r.target)


def _feature_ablation(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.FeatureAblation)
    segments = r.method.segments(r.x)
    result: Any = attr.FeatureAblation(r.given).attribute(
        r.x, r.baseline, r.target, feature_mask=segments, perturbations_per_eval=_BATCH
    )
    if r.method.segments.are_bands:
        return result
    return result[:, :1]


def _kernel_shap(r: CaptumReference) -> Tensor:
    """Return the values of Captum's regression on the coalitions of lit_viz, complete pairs only."""
    assert isinstance(r.method, own.KernelShap)
    segments = r.method.segments(r.x)
    count, numbers = 1 + segments.amax((1, 2, 3)), torch.arange(r.evaluations // 2 * 2, device=r.x.device)
    evaluations = torch.full_like(count, r.evaluations)
    state = {"seed": torch.tensor([r.seed]), "count": count, "iterations": evaluations}
    visible = r.method.coalitions(state, torch.zeros_like(numbers), numbers)[:, : int(count)].long()
    weights = r.method.weights(state, torch.zeros_like(numbers), numbers.clamp_min(2))
    weights[:2] = _INFINITE * weights.max()  # the image and its baseline
    remaining = iter(weights)

    def coalitions(image: Tensor, **options: Any) -> Iterator[Tensor]:
        yield from visible[:, None]

    def next_weight(*_: Any, **__: Any) -> Tensor:
        weight: Tensor = next(remaining)
        return weight[None]

    shap = attr.KernelShap(lambda x: r.given(x).as_subclass(_Float64))
    shap.perturb_func, shap.similarity_func, shap.interpretable_model = coalitions, next_weight, _LeastSquares()
    options = {"feature_mask": segments, "n_samples": len(numbers), "perturbations_per_eval": _BATCH}
    values: Tensor = shap.attribute(r.x, r.baseline, r.target, return_input_shape=False, **options)
    return values.flatten()[segments].to(r.x)


def _occlusion(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.Occlusion)
    shape = r.x.shape[1:]
    windows = r.method.default_evaluations(shape)
    if r.evaluations < windows:
        raise LitVizError(f"Captum needs all {windows} windows of occlusion, got {r.evaluations}")
    result: Any = attr.Occlusion(r.given).attribute(
        r.x,
        sliding_window_shapes=(shape[0], *r.method.windows),
        strides=(shape[0], *r.method.strides),
        baselines=r.baseline,
        target=r.target,
        perturbations_per_eval=_BATCH,
    )
    return result[:, :1]


def _window_order(r: CaptumReference) -> Tensor:
    """Return the numbers of the evaluations in Captum's order: the image, then windows down before across."""
    assert isinstance(r.method, own.Occlusion)
    windows = torch.arange(1, r.evaluations).view(r.method.grid(r.x.shape[1:]))
    return torch.cat([torch.zeros(1, dtype=torch.long), windows.T.flatten()])


def _rise(r: CaptumReference) -> Tensor:
    assert isinstance(r.method, own.RISE)
    total = torch.zeros_like(r.x[:, :1])
    for numbers in _batches(r):
        visible = rise.masks([Key(r.seed, k) for k in numbers.tolist()], r.x, r.method.grid, r.method.p)
        with torch.no_grad():
            scores = r.scores(r.x * visible)
        total += (per_slot(scores, visible) * visible).sum(0, keepdim=True)
    return total / (r.evaluations * r.method.p)


def formula_of(r: CaptumReference) -> Tensor:
    """Return lit_viz's map of the copy of the original network, which is neither folded nor fused.

    Another backward than autograd's is that of the fast copy.
    """
    network = r.network
    original = FrozenNetwork(r.original.copy, network.mean, network.std, is_original=True, output=network.output)
    networks: dict[str, LayeredNetwork] = {}
    for name in r.method.networks:
        if name == "plain":
            networks[name] = original
        elif name == "libra":
            networks[name] = LibraNetwork(original)
        else:
            networks[name] = r.network.fast(r.method.layers, dtype=r.x.dtype, backprop=name)
    against = None if r.against is None else [r.against]
    options: dict[str, Any] = {"evaluations": r.evaluations, "seeds": [r.seed], "against": against}
    values, _ = own.attribute(r.method, networks, r.x, [r.target], **options)
    return values


def _in_order(r: CaptumReference) -> Tensor:
    return torch.arange(r.evaluations)


def _equal_weights(r: CaptumReference) -> Tensor:
    return torch.full((r.evaluations,), 1 / r.evaluations, dtype=torch.float64)


@dataclass(frozen=True)
class Counterpart:
    """What computes the map of a saliency method independently.

    Attributes:
        name: its class in ``captum.attr``; empty for the original network.
        compared: what is compared, in a phrase.
        compute: returns its map.
        terms: returns the terms of some evaluations, of a map that is their weighted sum.
        weights: returns the weights of all terms, float64 ``(n,)``.
        order: returns the numbers of all evaluations in the order in which ``compute`` requests their scores, of a map
            that is computed from them.
        ends: number of the first evaluations that every value of the map depends on.
    """

    name: str
    compared: str
    compute: Callable[[CaptumReference], Tensor]
    terms: Callable[[CaptumReference, Tensor], Tensor] | None = None
    weights: Callable[[CaptumReference], Tensor] = _equal_weights
    order: Callable[[CaptumReference], Tensor] | None = None
    ends: int = 0

    @property
    def source(self) -> str:
        """What computes the reference."""
        return run_evidence.CAPTUM if self.name else run_evidence.ORIGINAL


#: Methods in Captum.
COUNTERPARTS: dict[type[own.Attribution], Counterpart] = {
    own.Gradient: Counterpart(
        "Saliency", "signed map", lambda r: attr.Saliency(r.given).attribute(r.x, r.target, abs=False)
    ),
    own.LibraGradient: Counterpart(
        "Saliency",
        "signed map with the same rule",
        lambda r: attr.Saliency(r.given).attribute(r.x, r.target, abs=False),
    ),
    own.InputXGradient: Counterpart("InputXGradient", "map of the same baseline", _input_x_gradient),
    own.SmoothGrad: Counterpart(
        "NoiseTunnel", "map of the same noise", partial(_noise_tunnel, "smoothgrad"), terms=_noisy_gradients
    ),
    own.SmoothGradSquared: Counterpart(
        "NoiseTunnel",
        "map of the same noise",
        partial(_noise_tunnel, "smoothgrad_sq"),
        terms=lambda r, numbers: _noisy_gradients(r, numbers).square(),
    ),
    own.VarGrad: Counterpart(
        "NoiseTunnel", "map of the same noise, times n/(n - 1)", partial(_noise_tunnel, "vargrad")
    ),
    own.IntegratedGradients: Counterpart(
        "IntegratedGradients",
        "map of the same nodes and baseline",
        _integrated_gradients,
        terms=_path_terms_of_nodes,
        weights=lambda r: _nodes(r)[1],
    ),
    own.GradientShap: Counterpart(
        "GradientShap", "map of the same baselines, positions and noise", _gradient_shap, terms=_drawn_path_terms
    ),
    own.ExpectedGradients: Counterpart(
        "GradientShap", "map of the same photographs, positions and noise", _gradient_shap, terms=_drawn_path_terms
    ),
    own.DeepLift: Counterpart("DeepLift", "map with one module per call", _deep_lift),
    own.GuidedBackprop: Counterpart(
        "GuidedBackprop", "map", lambda r: attr.GuidedBackprop(r.hooked).attribute(r.x, r.target)
    ),
    own.Deconvolution: Counterpart(
        "Deconvolution", "map", lambda r: attr.Deconvolution(r.hooked).attribute(r.x, r.target)
    ),
    own.GradCAM: Counterpart("LayerGradCam", "interpolated map of feature maps", _grad_cam),
    own.GuidedGradCAM: Counterpart("GuidedGradCam", "map of feature maps", _guided_grad_cam),
    own.Occlusion: Counterpart(
        "Occlusion", "map of the same windows and baseline", _occlusion, order=_window_order, ends=1
    ),
    own.FeatureAblation: Counterpart(
        "FeatureAblation", "map of the same superpixels and baseline", _feature_ablation, order=_in_order, ends=1
    ),
    own.KernelShap: Counterpart("KernelShap", "map of the same coalitions", _kernel_shap, order=_in_order, ends=2),
}

#: RISE, which Captum lacks, computed here.
_RISE = Counterpart("", "map of the same masks", _rise, order=_in_order)
#: Methods that Captum lacks, in float64 by the original network, and by none of lit_viz's kernels.
_OF_ORIGINAL = Counterpart("", "map by autograd", formula_of)


def counterpart_of(method: own.Attribution) -> Counterpart | None:
    """Return what computes the same map: Captum's method, else the original network; None if neither does.

    A subclass that overrides only settings counts as its base class. Captum explains logits, and its Grad-CAM requires
    feature maps. The original network has no other backward than autograd's and the rule libra, and an optimized mask
    depends on the last bits.
    """
    base = _computed_by(method, COUNTERPARTS)
    reads_tokens = isinstance(method, own.GradCAM) and not method.reads_feature_maps
    if base is not None and isinstance(method.objective, Logit) and not reads_tokens:
        return COUNTERPARTS[base]
    if not isinstance(method, own.Estimator) or method.networks not in (("plain",), ("libra",)):
        return None
    if _computed_by(method, [own.RISE]) is None:
        return _OF_ORIGINAL
    return _RISE


def _computed_by(method: own.Attribution, kinds: Collection[type[own.Attribution]]) -> type[own.Attribution] | None:
    """Return the class of these that computes the method: its own, or a base whose computation it inherits."""
    classes = type(method).__mro__
    base = next((kind for kind in classes if kind in kinds), None)
    if base is None:
        return None
    names: set[str] = set()
    for kind in classes[: classes.index(base)]:
        names.update(vars(kind))
    if any(_is_computation(base, name) for name in names):
        return None
    return base


def _is_computation(method: type[own.Attribution], name: str) -> bool:
    """Return whether an attribute of a subclass overrides what the method computes."""
    is_setting = name in _SETTINGS or name.startswith(("__", "_abc_"))
    return hasattr(method, name) and not is_setting
