"""Saliency methods, one a file: which pixels decide?"""

from __future__ import annotations

from lit_viz.attributions.base import Attribution, Estimator, add_rows, attribute, gather_rows, keys
from lit_viz.attributions.extremal_perturbation import ExtremalPerturbation
from lit_viz.attributions.grad_cam import GradCAM
from lit_viz.attributions.gradient import Gradient
from lit_viz.attributions.guided import Deconvolution, GuidedBackprop
from lit_viz.attributions.guided_grad_cam import GuidedGradCAM
from lit_viz.attributions.input_x_gradient import InputXGradient
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.attributions.rise import RISE
from lit_viz.attributions.sampling import Sampling
from lit_viz.attributions.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad

#: By the names that commands, records and figures use.
METHODS: dict[str, type[Attribution]] = {
    "gradient": Gradient,
    "input_x_gradient": InputXGradient,
    "smoothgrad": SmoothGrad,
    "smoothgrad_squared": SmoothGradSquared,
    "vargrad": VarGrad,
    "integrated_gradients": IntegratedGradients,
    "guided_backprop": GuidedBackprop,
    "deconvolution": Deconvolution,
    "grad_cam": GradCAM,
    "guided_grad_cam": GuidedGradCAM,
    "occlusion": Occlusion,
    "rise": RISE,
    "extremal_perturbation": ExtremalPerturbation,
}


#: How methods are called in figures, where that is not their name.
_TITLES = {
    "input_x_gradient": "input × gradient",
    "smoothgrad": "SmoothGrad",
    "smoothgrad_squared": "SmoothGrad, squared",
    "vargrad": "VarGrad",
    "grad_cam": "Grad-CAM",
    "guided_grad_cam": "guided Grad-CAM",
    "rise": "RISE",
}


def title_of(name: str) -> str:
    """Return how a method of this name is called in figures."""
    return _TITLES.get(name, name.replace("_", " "))


def name_of(method: Attribution) -> str:
    """Return the method's name; that of its class where it is none of ``METHODS``."""
    return next((name for name, kind in METHODS.items() if kind is type(method)), type(method).__name__)


__all__ = [
    "METHODS",
    "RISE",
    "Attribution",
    "Deconvolution",
    "Estimator",
    "ExtremalPerturbation",
    "GradCAM",
    "Gradient",
    "GuidedBackprop",
    "GuidedGradCAM",
    "InputXGradient",
    "IntegratedGradients",
    "Occlusion",
    "Sampling",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
    "add_rows",
    "attribute",
    "gather_rows",
    "keys",
    "name_of",
    "title_of",
]
