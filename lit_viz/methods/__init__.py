"""The methods: LightningModules whose parameter is the input image."""

from lit_viz.methods.class_visualization import ClassVisualization

__all__ = ["ClassVisualization"]
