"""Probes: callbacks that run the methods on a network in training, and log what it has learned epoch by epoch."""

from __future__ import annotations

from lit_viz.callbacks.probes.base import Probe
from lit_viz.callbacks.probes.class_visualization import ClassVisualizationProbe
from lit_viz.callbacks.probes.images import ImageProbe
from lit_viz.callbacks.probes.robustness import RobustnessProbe
from lit_viz.callbacks.probes.saliency import SaliencyProbe

__all__ = ["ClassVisualizationProbe", "ImageProbe", "Probe", "RobustnessProbe", "SaliencyProbe"]
