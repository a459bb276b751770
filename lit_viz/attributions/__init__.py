"""Saliency methods: how much each pixel contributes to the score of a class."""

from __future__ import annotations

from lit_viz.attributions.attention import AttentionMap
from lit_viz.attributions.attention_gradient import AttentionGradient
from lit_viz.attributions.attention_rollout import AttentionRollout
from lit_viz.attributions.automatic import AUTO, automatic_method
from lit_viz.attributions.base import Attribution, Estimator, Sampling, add_rows, attribute, gather_rows, keys
from lit_viz.attributions.deep_lift import DeepLift
from lit_viz.attributions.expected_gradients import ExpectedGradients
from lit_viz.attributions.extremal_perturbation import ExtremalPerturbation
from lit_viz.attributions.feature_ablation import FeatureAblation
from lit_viz.attributions.function_map import FunctionMap
from lit_viz.attributions.grad_cam import GradCAM, GradCAMPlusPlus, GuidedGradCAM, HiResCAM, LayerCAM
from lit_viz.attributions.gradient import Deconvolution, Gradient, GuidedBackprop, InputXGradient, LibraGradient
from lit_viz.attributions.gradient_shap import GradientShap
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.attributions.kernel_shap import KernelShap
from lit_viz.attributions.legrad import LeGrad
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.attributions.rise import RISE
from lit_viz.attributions.shapley_interactions import ShapleyInteractions
from lit_viz.attributions.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad, noise

#: Saliency methods by their names in commands, records and figures.
ATTRIBUTIONS: dict[str, type[Attribution]] = {
    "gradient": Gradient,
    "libra_gradient": LibraGradient,
    "input_x_gradient": InputXGradient,
    "smoothgrad": SmoothGrad,
    "smoothgrad_squared": SmoothGradSquared,
    "vargrad": VarGrad,
    "integrated_gradients": IntegratedGradients,
    "gradient_shap": GradientShap,
    "expected_gradients": ExpectedGradients,
    "deep_lift": DeepLift,
    "guided_backprop": GuidedBackprop,
    "deconvolution": Deconvolution,
    "grad_cam": GradCAM,
    "guided_grad_cam": GuidedGradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "layer_cam": LayerCAM,
    "hires_cam": HiResCAM,
    "attention_rollout": AttentionRollout,
    "attention_gradient": AttentionGradient,
    "legrad": LeGrad,
    "occlusion": Occlusion,
    "feature_ablation": FeatureAblation,
    "kernel_shap": KernelShap,
    "shapley_interactions": ShapleyInteractions,
    "rise": RISE,
    "extremal_perturbation": ExtremalPerturbation,
}


def title_of(name: str) -> str:
    """Return the title of a method in figures: that of its class, or its name; with its settings, if the name has
    them (:func:`~lit_viz.utils.parts.distinct_names`)."""
    short, comma, settings = name.partition(",")
    kind = ATTRIBUTIONS.get(short)
    title: str = vars(kind).get("title", "") if kind is not None else ""
    return (title or short.replace("_", " ")) + comma + settings


__all__ = [
    "ATTRIBUTIONS",
    "AUTO",
    "RISE",
    "AttentionGradient",
    "AttentionMap",
    "AttentionRollout",
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "Estimator",
    "ExpectedGradients",
    "ExtremalPerturbation",
    "FeatureAblation",
    "FunctionMap",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerCAM",
    "LeGrad",
    "LibraGradient",
    "Occlusion",
    "Sampling",
    "ShapleyInteractions",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
    "add_rows",
    "attribute",
    "automatic_method",
    "gather_rows",
    "keys",
    "noise",
    "title_of",
]
