"""How Captum makes each of our maps, on the network as it came."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import captum.attr as attr
import torch
from torch import Tensor, nn

from lit_viz.attributions import (
    Attribution,
    Deconvolution,
    GradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from lit_viz.attributions.smoothgrad import noise
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import is_rectifier
from lit_viz.classifiers.isolation import (
    cast,
    device_of,
    full_float32,
    memo_without_hooks,
    private_copy,
    random_state_preserved,
)
from lit_viz.classifiers.outputs import logits_of
from lit_viz.errors import LitVizError
from lit_viz.objectives import Logit
from lit_viz.rng import Key

_AT_ONCE = 8  # inputs, so that memory doesn't grow with the number of samples


class Original(nn.Module):
    """The classifier as Captum is shown it: images in [0, 1] -> logits, by a copy of the original network.

    The copy is frozen, in eval mode, not folded and not fused. Two things are made so that Captum's hooks can work: no
    activation is in place, and a ReLU6 is a kind of ReLU (which it is in mathematics, and not by its class).

    Args:
        classifier: whose network is copied.
        dtype: of the copy.
        hooked: whether Captum will put hooks on rectifiers.

    Raises:
        LitVizError: the network can't be copied.
    """

    def __init__(self, classifier: Classifier, dtype: torch.dtype, *, hooked: bool = False) -> None:
        super().__init__()
        # Hooks that change what it gives are a part of it: then there is no fast copy either.
        memo = {} if classifier.fast().is_original else memo_without_hooks(classifier.original)
        try:
            network = private_copy(classifier.original, memo)
        except Exception as error:  # whatever the network's own code raises
            raise LitVizError(f"{classifier.name} can't be copied for Captum: {error}") from error
        for module in network.modules():
            if hooked and hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010 - whatever kind of module it is
            for name, child in module.named_children():
                if hooked and is_rectifier(child) and not isinstance(child, nn.ReLU):
                    module._modules[name] = _ReLU6()
        self.network = cast(network, dtype).eval().requires_grad_(False)
        self._normalize = classifier.normalize

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, K)``."""
        return logits_of(self.network(self._normalize(x)), len(x))


class _ReLU6(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


@dataclass(frozen=True)
class Question:
    """One map, to be made by Captum.

    Attributes:
        method: how lit_viz made it.
        classifier: of which network.
        x: the photograph ``(1, C, H, W)`` in [0, 1], in the precision wanted.
        target: class index.
        seed: of the task, for what is drawn at random.
        evaluations: that lit_viz made.
        last_bits: 0 asks as it is. Another number draws the last bits of photograph and weights anew: what float32
            makes of a map is luck where it has kinks, and one map alone doesn't tell how much.
        steps: of float32, that these are away at most.
    """

    method: Attribution
    classifier: Classifier
    x: Tensor
    target: int
    seed: int
    evaluations: int
    last_bits: int = 0
    steps: int = 1

    @cached_property
    def network(self) -> Original:
        """The copy that Captum asks."""
        hooked = isinstance(self.method, (GuidedBackprop, GuidedGradCAM))
        network = Original(self.classifier, self.x.dtype, hooked=hooked)
        if self.last_bits:
            for parameter in network.parameters():
                real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
                real.copy_(_redrawn(real, self.last_bits, self.steps))
        return network.to(device_of(self.classifier.original))

    def redrawn(self, number: int, steps: int = 1) -> Question:
        """Return the question with the last bits of photograph and weights drawn anew, up to so many steps away."""
        return replace(self, x=_redrawn(self.x, number, steps), last_bits=number, steps=steps)

    @property
    def layer(self) -> nn.Module:
        """The layer that the method reads, in that copy."""
        (name,) = self.method.layers
        return self.network.network.get_submodule(name)


def formula_rounding(question: Question) -> float:
    """Return by how much of its maximum Captum's own formula is off in float64.

    It rounds the weights of a quadrature to float32, each on its own, so the more nodes the less; and what occlusion
    found, before and after it is divided by the number of windows.
    """
    if isinstance(question.method, IntegratedGradients):
        return float(2.0**-24 / question.method.nodes(question.evaluations) ** 0.5)
    return 2.0**-23 if isinstance(question.method, Occlusion) else 0.0


def _redrawn(values: Tensor, number: int, steps: int) -> Tensor:
    """Return float32 values that are up to so many steps of float32 away."""
    generator = torch.Generator().manual_seed(number)
    unit = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
    return (values.double() * (1 + steps * (2 * unit - 1) * torch.finfo(torch.float32).eps)).to(values.dtype)


def fewer(question: Question, evaluations: int) -> Question:
    """Return the question for fewer evaluations, where the method makes sense with any number of them."""
    if isinstance(question.method, Occlusion):
        return question
    return replace(question, evaluations=min(question.evaluations, evaluations))


def is_in_captum(method: Attribution) -> bool:
    """Return whether Captum has the method."""
    return type(method) in _MAKERS and isinstance(method.objective, Logit)


def captum_map(question: Question) -> Tensor | None:
    """Return Captum's map, of the shape of ours and on the CPU; None where Captum has no such method.

    The global random state is left as it was.
    """
    if not is_in_captum(question.method):
        return None
    make = _MAKERS[type(question.method)]
    original = question.classifier.original
    with random_state_preserved(original), full_float32(), torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
        warnings.filterwarnings("ignore", "Setting (forward, )?backward hooks")
        found: Tensor | None = make(question)
    return None if found is None else found.detach().cpu()


def _gradient(q: Question) -> Any:
    return attr.Saliency(q.network).attribute(q.x, q.target, abs=False)


def _input_x_gradient(q: Question) -> Any:
    return attr.InputXGradient(q.network).attribute(q.x, q.target)


def _noisy(kind: str) -> Callable[[Question], Tensor]:
    """Return NoiseTunnel over Saliency.

    It draws from the global random state, so it is given noise of no width, and the function that it asks adds the very
    noise of our samples, in their order.
    """

    def make(q: Question) -> Tensor:
        assert isinstance(q.method, SmoothGrad)
        added = noise([Key(q.seed, k) for k in range(q.evaluations)], q.x, q.method.sigma)
        rows = iter(added)

        def ask(x: Tensor) -> Tensor:
            logits: Tensor = q.network(x + torch.stack([next(rows) for _ in range(len(x))]))
            return logits

        tunnel = attr.NoiseTunnel(attr.Saliency(ask))
        found: Tensor = tunnel.attribute(
            q.x,
            nt_type=kind,
            nt_samples=q.evaluations,
            nt_samples_batch_size=_AT_ONCE,
            stdevs=0.0,
            target=q.target,
            abs=False,
        )
        n = q.evaluations
        factor = n / (n - 1) if kind == "vargrad" and n > 1 else 1.0  # Captum's is the biased variance
        scaled: Tensor = found * factor
        return scaled

    return make


def _integrated_gradients(q: Question) -> Any:
    assert isinstance(q.method, IntegratedGradients)
    return attr.IntegratedGradients(q.network).attribute(
        q.x,
        q.method.baseline(q.x, [q.seed]),
        q.target,
        n_steps=q.method.nodes(q.evaluations),
        method="gausslegendre",
        internal_batch_size=_AT_ONCE,
    )


def _guided(kind: type[Any]) -> Callable[[Question], Any]:
    return lambda q: kind(q.network).attribute(q.x, q.target)


def _grad_cam(q: Question) -> Any:
    assert isinstance(q.method, GradCAM)
    if not q.method.reads_feature_maps:
        return None
    cam: Any = attr.LayerGradCam(q.network, q.layer).attribute(q.x, q.target, relu_attributions=q.method.relu)
    return attr.LayerAttribution.interpolate(cam, tuple(q.x.shape[2:]), "bilinear")


def _guided_grad_cam(q: Question) -> Any:
    assert isinstance(q.method, GuidedGradCAM)
    if not q.method.reads_feature_maps:
        return None
    return attr.GuidedGradCam(q.network, q.layer).attribute(q.x, q.target, interpolate_mode="bilinear")


def _occlusion(q: Question) -> Any:
    assert isinstance(q.method, Occlusion)
    shape = q.x.shape[1:]
    if q.evaluations < q.method.default_evaluations(shape):
        raise LitVizError(
            f"{q.evaluations} of {q.method.default_evaluations(shape)} windows were hidden, and Captum hides all"
        )
    found: Any = attr.Occlusion(q.network).attribute(
        q.x,
        sliding_window_shapes=(shape[0], *_both(q.method.windows)),
        strides=(shape[0], *_both(q.method.strides)),
        baselines=q.method.baseline(q.x, [q.seed]),
        target=q.target,
        perturbations_per_eval=_AT_ONCE,
    )
    return found[:, :1]


def _both(sides: Sequence[int]) -> Sequence[int]:
    return list(sides) * 2 if len(sides) == 1 else sides


_MAKERS: dict[type[Attribution], Callable[[Question], Any]] = {
    Gradient: _gradient,
    InputXGradient: _input_x_gradient,
    SmoothGrad: _noisy("smoothgrad"),
    SmoothGradSquared: _noisy("smoothgrad_sq"),
    VarGrad: _noisy("vargrad"),
    IntegratedGradients: _integrated_gradients,
    GuidedBackprop: _guided(attr.GuidedBackprop),
    Deconvolution: _guided(attr.Deconvolution),
    GradCAM: _grad_cam,
    GuidedGradCAM: _guided_grad_cam,
    Occlusion: _occlusion,
}
