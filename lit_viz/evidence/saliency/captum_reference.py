"""Captum's computation of each saliency method, on a copy of the original network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import captum.attr as attr
import torch
from captum.attr._core.gradient_shap import InputBaselineXGradient
from torch import Tensor, nn
from torch.nn import functional

from lit_viz import attributions as own
from lit_viz.attributions.feature_ablation import Ablation
from lit_viz.attributions.smoothgrad import noise
from lit_viz.classifiers import Classifier, isolation
from lit_viz.classifiers.fast import is_rectifier
from lit_viz.classifiers.fast.rescaling import Call, Interception
from lit_viz.errors import LitVizError
from lit_viz.objectives import Logit
from lit_viz.optim.rule import per_slot
from lit_viz.rng import Key
from lit_viz.types import Task

_BATCH = 8  # inputs per forward pass, so that memory does not grow with the number of samples
_INFINITE = 1e12  # weight of the two coalitions that a regression must fit; Captum's 1e6 leaves an error of 1e-6
#: Attributes that a subclass may override without changing what the method computes. The objective is compared apart.
_SETTINGS = {"batch", "evaluations", "objective", "record_fields", "reducer", "tolerance", "uncertainty"}


#: Copies of networks by classifier, precision, and whether they are prepared for hooks.
NetworkCopies = dict[tuple[Classifier, torch.dtype, bool], nn.Module]


class OriginalNetwork(nn.Module):
    """A frozen copy of the original network in eval mode: images ``(N, C, H, W)`` in [0, 1] -> logits ``(N, K)``.

    If the target is contrasted with another class (``against``), ``gamma`` times its logit is subtracted from each.

    For Captum's hooks on rectifiers (``hooked``), activations are not in place and a ReLU6 is an instance of ReLU.

    Args:
        copies: copies that exist already, by classifier, precision and ``hooked``; a new one is added.

    Raises:
        LitVizError: the network can't be copied.
    """

    def __init__(
        self,
        classifier: Classifier,
        dtype: torch.dtype,
        *,
        hooked: bool = False,
        against: int | None = None,
        gamma: float = 1.0,
        copies: NetworkCopies | None = None,
    ) -> None:
        super().__init__()
        self._normalize, self.against, self.gamma = classifier.normalize, against, gamma
        self.output = classifier.output
        key = classifier, dtype, hooked
        if copies is None:
            copies = {}
        if key not in copies:
            copies[key] = self._copied(classifier, dtype, hooked)
        self.network = copies[key]

    def _copied(self, classifier: Classifier, dtype: torch.dtype, hooked: bool) -> nn.Module:
        # Without a fast copy, the network's own hooks change its output and must be kept.
        memo = {} if classifier.fast().is_original else isolation.memo_without_hooks(classifier.original)
        try:
            network = isolation.private_copy(classifier.original, memo)
        except Exception as error:  # raised by the network's own code
            raise LitVizError(f"{classifier.name} can't be copied for Captum: {error}") from error
        if hooked:
            _prepare_for_hooks(network)
        return isolation.cast(network, dtype).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits = self.output(self.network, self._normalize(x))
        return logits if self.against is None else logits - self.gamma * logits[:, self.against, None]


def _prepare_for_hooks(network: nn.Module) -> None:
    """Replace activations in place by others, and each ReLU6 by an instance of ReLU."""
    for module in network.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - not an attribute of every module type
        for name, child in module.named_children():
            if is_rectifier(child) and isinstance(child, nn.Hardtanh):
                module._modules[name] = _hooked(partial(functional.hardtanh, min_val=0, max_val=child.max_val))


class UnsharedNetwork(nn.Module):
    """A network with one module per call of a non-linear function, as Captum's DeepLIFT requires.

    Captum hooks modules of some types, and fails on those that are called twice (Captum's issues 199, 578 and 934). Of
    two modules in sequence, it ignores the rule of the second: their tensors are therefore separated by a copy. It does
    not hook the network itself, which is no submodule.

    Args:
        network: the network.
        x: images ``(N, C, H, W)`` of a first forward, which records the calls.
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        self._network = (network,)
        self.calls = nn.ModuleList()
        with torch.enable_grad():
            self(x.detach().clone().requires_grad_())

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        with _Calls(self.calls):
            logits: Tensor = self._network[0](x)
        return logits


class _Calls(Interception):
    """Pass the i-th call to the i-th module, which is appended in the first forward."""

    def __init__(self, modules: nn.ModuleList) -> None:
        super().__init__()
        self._modules, self._count = modules, 0

    def elementwise(self, z: Tensor, call: Call) -> Tensor:
        """Call the next module with the function, which may change its argument."""
        module, in_place = self._next(nn.ReLU), list[bool]()

        def forward(x: Tensor) -> Tensor:
            argument = x.clone()
            result = call.function(argument)
            in_place.append(result is argument)
            return result

        module.forward = forward
        y: Tensor = module(z.clone())
        return z.copy_(y) if in_place[-1] else y

    def max_pool(self, z: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Call the next module with the windows as rows: overlapping ones overwrite each other in Captum's rule."""
        window, stride, padding, dilation = (
            _pair(options[name]) for name in ("kernel_size", "stride", "padding", "dilation")
        )
        sides = nn.functional.max_pool2d(z[:1].detach(), **options).shape[2:]
        after = []  # padding below and on the right
        for axis in (0, 1):
            end = (sides[axis] - 1) * stride[axis] + dilation[axis] * (window[axis] - 1) + 1
            after.append(max(0, end - z.shape[2 + axis] - padding[axis]))
        (top, left), (bottom, right) = padding, after
        padded = nn.functional.pad(z, (left, right, top, bottom), value=-torch.inf)
        windows = nn.functional.unfold(padded, window, dilation, stride=stride)
        rows = windows.view(*z.shape[:2], -1, windows.shape[2]).mT
        y: Tensor = self._next(nn.MaxPool1d, rows.shape[-1])(rows.flatten(1, 2))
        return y.view(*z.shape[:2], *sides)

    def _next(self, kind: type[nn.Module], *options: Any) -> Any:
        if self._count == len(self._modules):
            self._modules.append(kind(*options))
        self._count += 1
        return self._modules[self._count - 1]


def _hooked(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a module for an element-wise function that Captum takes for a ReLU."""
    module = nn.ReLU()
    setattr(module, "forward", function)  # noqa: B010 - a method
    return module


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = [value] if isinstance(value, int) else list(value)
    return int(first), int(rest[0] if rest else first)


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
        self._solution = torch.linalg.lstsq(roots * design, roots * centered[:, None]).solution

    def representation(self) -> Tensor:
        values: Tensor = self._solution[:-1, 0]
        return values


@dataclass(frozen=True)
class CaptumReference:
    """A saliency map to be computed by Captum.

    Attributes:
        method: the method of lit_viz.
        classifier: the network.
        x: photograph ``(1, C, H, W)`` in [0, 1], in the precision of the computation.
        target: class index.
        seed: of the task's random draws.
        evaluations: number of evaluations of the map.
        against: index of the class that the target is contrasted with, if any.
        noise_seed: if not 0, perturb photograph and weights by float32 rounding errors of this seed.
        noise_steps: largest perturbation, in units of the float32 epsilon.
        copies: unperturbed copies of the network, which references share.
    """

    method: own.Attribution
    classifier: Classifier
    x: Tensor
    target: int
    seed: int
    evaluations: int
    against: int | None = None
    noise_seed: int = 0
    noise_steps: int = 1
    copies: NetworkCopies = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def network(self) -> OriginalNetwork:
        """The copy of the network."""
        hooked = isinstance(self.method, (own.GuidedBackprop, own.GuidedGradCAM))
        gamma = getattr(self.method.objective, "gamma", 1.0)
        copies = {} if self.noise_seed else self.copies
        network = OriginalNetwork(
            self.classifier, self.x.dtype, hooked=hooked, against=self.against, gamma=gamma, copies=copies
        )
        if self.noise_seed:
            for parameter in network.parameters():
                real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
                real.copy_(_add_rounding(real, self.noise_seed, self.noise_steps))
        return network.to(isolation.device_of(self.classifier.original))

    @property
    def layer(self) -> nn.Module:
        """The layer of the copy that the method reads."""
        return self.network.network.get_submodule(self.method.layers[0])

    @property
    def baseline(self) -> Tensor:
        """The baseline of the method."""
        assert isinstance(self.method, (own.IntegratedGradients, own.DeepLift, Ablation, own.KernelShap))
        return self.method.baseline(self.x, [self.seed])

    def with_rounding(self, seed: int, steps: int = 1) -> CaptumReference:
        """Return the reference with photograph and weights perturbed by random rounding errors."""
        return replace(self, x=_add_rounding(self.x, seed, steps), noise_seed=seed, noise_steps=steps)

    def with_evaluations(self, limit: int) -> CaptumReference:
        """Return the reference with at most ``limit`` evaluations, or as many as the method's map requires."""
        if isinstance(self.method, Ablation):
            return self
        if isinstance(self.method, own.KernelShap):
            limit = max(limit, 4 * self.method.segments.most)  # a regression of full rank
        return replace(self, evaluations=min(self.evaluations, limit))

    @property
    def formula_rounding(self) -> float:
        """Error of Captum's own formula in float64, relative to the map's maximum.

        Captum stores quadrature weights and occlusion maps in float32.
        """
        if isinstance(self.method, own.IntegratedGradients):
            return float(2.0**-24 / self.method.nodes(self.evaluations) ** 0.5)
        return 2.0**-23 if isinstance(self.method, own.Occlusion) else 0.0

    def compute(self) -> Tensor:
        """Return Captum's map on the CPU, in the shape of lit_viz's map. The global random state is preserved.

        The method must be in Captum (see :func:`counterpart_of`).
        """
        counterpart = counterpart_of(self.method)
        assert counterpart is not None
        with (
            isolation.random_state_preserved(self.classifier.original),
            isolation.full_float32(),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
            warnings.filterwarnings("ignore", r"\s*Setting (forward, )?backward hooks")
            return counterpart.compute(self).detach().cpu()


def _add_rounding(values: Tensor, seed: int, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
    return (values.double() * (1 + steps * (2 * unit - 1) * torch.finfo(torch.float32).eps)).to(values.dtype)


def _noise_tunnel(kind: str, r: CaptumReference) -> Tensor:
    """Return Captum's map of the noise of lit_viz.

    NoiseTunnel draws from the global random state: it gets noise of zero width, and the forward function adds that of
    lit_viz's samples, in their order.
    """
    assert isinstance(r.method, own.SmoothGrad)
    n = r.evaluations
    samples = iter(noise([Key(r.seed, k) for k in range(n)], r.x, r.method.sigma))

    def forward(x: Tensor) -> Tensor:
        logits: Tensor = r.network(x + torch.stack([next(samples) for _ in range(len(x))]))
        return logits

    tunnel = attr.NoiseTunnel(attr.Saliency(forward))
    options = {"nt_samples": n, "nt_samples_batch_size": _BATCH, "stdevs": 0.0, "target": r.target, "abs": False}
    result: Tensor = tunnel.attribute(r.x, nt_type=kind, **options)
    return result * (n / (n - 1) if kind == "vargrad" and n > 1 else 1.0)  # Captum's variance is biased


def _integrated_gradients(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.IntegratedGradients)
    steps = {"n_steps": r.method.nodes(r.evaluations), "method": "gausslegendre", "internal_batch_size": _BATCH}
    return attr.IntegratedGradients(r.network).attribute(r.x, r.baseline, r.target, **steps)


def _grad_cam(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.GradCAM)
    cam: Any = attr.LayerGradCam(r.network, r.layer).attribute(r.x, r.target, relu_attributions=r.method.relu)
    return attr.LayerAttribution.interpolate(cam, tuple(r.x.shape[2:]), "bilinear")


def _guided_grad_cam(r: CaptumReference) -> Any:
    return attr.GuidedGradCam(r.network, r.layer).attribute(r.x, r.target, interpolate_mode="bilinear")


def _gradient_shap(r: CaptumReference) -> Tensor:
    """Return the mean of Captum's products; its GradientShap evaluates all samples in one batch.

    Captum draws the positions from the global random state: the forward function replaces its points with lit_viz's.
    """
    assert isinstance(r.method, own.GradientShap)
    total = torch.zeros_like(r.x)
    state = r.method.init(r.x, [Task(0, "image", r.seed)])
    for first in range(0, r.evaluations, _BATCH):
        numbers = torch.arange(first, min(first + _BATCH, r.evaluations), device=r.x.device)
        start, end, positions = r.method.draw(r.x, state, torch.zeros_like(numbers), numbers)
        points = start.lerp(end, per_slot(positions, end))
        product = InputBaselineXGradient(lambda z, points=points: r.network(points + (z - z.detach())))
        total += product.attribute(end, start, r.target).detach().sum(0, keepdim=True)
    return total / r.evaluations


def _deep_lift(r: CaptumReference) -> Any:
    return attr.DeepLift(UnsharedNetwork(r.network, r.x)).attribute(r.x, r.baseline, r.target)


def _feature_ablation(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.FeatureAblation)
    segments = r.method.segments(r.x)
    result: Any = attr.FeatureAblation(r.network).attribute(
        r.x, r.baseline, r.target, feature_mask=segments, perturbations_per_eval=_BATCH
    )
    return result[:, :1]


def _kernel_shap(r: CaptumReference) -> Tensor:
    """Return the values of Captum's regression on the coalitions of lit_viz, complete pairs only."""
    assert isinstance(r.method, own.KernelShap)
    segments = r.method.segments(r.x)
    count, numbers = 1 + segments.amax((1, 2, 3)), torch.arange(r.evaluations // 2 * 2, device=r.x.device)
    state = {"seed": torch.tensor([r.seed]), "count": count}
    visible = r.method.coalitions(state, torch.zeros_like(numbers), numbers)[:, : int(count)].long()

    def coalitions(image: Tensor, **options: Any) -> Iterator[Tensor]:
        yield from visible[:, None]

    shap = attr.KernelShap(lambda x: r.network(x).as_subclass(_Float64))
    shap.perturb_func, shap.inf_weight, shap.interpretable_model = coalitions, _INFINITE, _LeastSquares()
    options = {"feature_mask": segments, "n_samples": len(numbers), "perturbations_per_eval": _BATCH}
    values: Tensor = shap.attribute(r.x, r.baseline, r.target, return_input_shape=False, **options)
    return values.flatten()[segments].to(r.x)


def _occlusion(r: CaptumReference) -> Any:
    assert isinstance(r.method, own.Occlusion)
    shape = r.x.shape[1:]
    windows = r.method.default_evaluations(shape)
    if r.evaluations < windows:
        raise LitVizError(f"Captum needs all {windows} windows of occlusion, got {r.evaluations}")
    result: Any = attr.Occlusion(r.network).attribute(
        r.x,
        sliding_window_shapes=(shape[0], *r.method.windows),
        strides=(shape[0], *r.method.strides),
        baselines=r.baseline,
        target=r.target,
        perturbations_per_eval=_BATCH,
    )
    return result[:, :1]


@dataclass(frozen=True)
class Counterpart:
    """A saliency method of Captum.

    Attributes:
        name: its class in ``captum.attr``.
        compared: what is compared, in a phrase.
        compute: returns its map.
    """

    name: str
    compared: str
    compute: Callable[[CaptumReference], Tensor]


#: Methods in Captum; a map of other methods is not compared.
COUNTERPARTS: dict[type[own.Attribution], Counterpart] = {
    own.Gradient: Counterpart(
        "Saliency", "signed map", lambda r: attr.Saliency(r.network).attribute(r.x, r.target, abs=False)
    ),
    own.InputXGradient: Counterpart(
        "InputXGradient", "map", lambda r: attr.InputXGradient(r.network).attribute(r.x, r.target)
    ),
    own.SmoothGrad: Counterpart("NoiseTunnel", "map of the same noise", partial(_noise_tunnel, "smoothgrad")),
    own.SmoothGradSquared: Counterpart("NoiseTunnel", "map of the same noise", partial(_noise_tunnel, "smoothgrad_sq")),
    own.VarGrad: Counterpart(
        "NoiseTunnel", "map of the same noise, times n/(n - 1)", partial(_noise_tunnel, "vargrad")
    ),
    own.IntegratedGradients: Counterpart(
        "IntegratedGradients", "map of the same nodes and baseline", _integrated_gradients
    ),
    own.GradientShap: Counterpart("GradientShap", "map of the same baselines, positions and noise", _gradient_shap),
    own.ExpectedGradients: Counterpart(
        "GradientShap", "map of the same photographs, positions and noise", _gradient_shap
    ),
    own.DeepLift: Counterpart("DeepLift", "map with one module per call", _deep_lift),
    own.GuidedBackprop: Counterpart(
        "GuidedBackprop", "map", lambda r: attr.GuidedBackprop(r.network).attribute(r.x, r.target)
    ),
    own.Deconvolution: Counterpart(
        "Deconvolution", "map", lambda r: attr.Deconvolution(r.network).attribute(r.x, r.target)
    ),
    own.GradCAM: Counterpart("LayerGradCam", "interpolated map of feature maps", _grad_cam),
    own.GuidedGradCAM: Counterpart("GuidedGradCam", "map of feature maps", _guided_grad_cam),
    own.Occlusion: Counterpart("Occlusion", "map of the same windows and baseline", _occlusion),
    own.FeatureAblation: Counterpart("FeatureAblation", "map of the same superpixels and baseline", _feature_ablation),
    own.KernelShap: Counterpart("KernelShap", "map of the same coalitions", _kernel_shap),
}


def counterpart_of(method: own.Attribution) -> Counterpart | None:
    """Return the method of Captum that computes the same map; None if Captum has none.

    A subclass that overrides only settings counts as its base class. Captum explains logits, and its Grad-CAM requires
    feature maps.
    """
    classes = type(method).__mro__
    base = next((kind for kind in classes if kind in COUNTERPARTS), None)
    if base is None or not isinstance(method.objective, Logit):
        return None
    names: set[str] = set()
    for kind in classes[: classes.index(base)]:
        names.update(vars(kind))
    if any(_is_computation(base, name) for name in names):
        return None
    if isinstance(method, own.GradCAM) and not method.reads_feature_maps:
        return None
    return COUNTERPARTS[base]


def _is_computation(method: type[own.Attribution], name: str) -> bool:
    """Return whether an attribute of a subclass overrides what the method computes."""
    is_setting = name in _SETTINGS or name.startswith(("__", "_abc_"))
    return hasattr(method, name) and not is_setting
