"""Objectives: differentiable scores of the outputs of a network, one per input, which are maximized."""

from lit_viz.objectives.base import Objective, Outputs, Product, Sum
from lit_viz.objectives.classes import (
    DLR,
    AttackObjective,
    ClippedCrossEntropy,
    CrossEntropy,
    Logit,
    LogProbability,
    Margin,
    Probability,
    TargetLogit,
)
from lit_viz.objectives.layers import (
    BatchNormStatistics,
    Channel,
    Direction,
    Diversity,
    Layer,
    LayerObjective,
    Neuron,
)

__all__ = [
    "DLR",
    "AttackObjective",
    "BatchNormStatistics",
    "Channel",
    "ClippedCrossEntropy",
    "CrossEntropy",
    "Direction",
    "Diversity",
    "Layer",
    "LayerObjective",
    "LogProbability",
    "Logit",
    "Margin",
    "Neuron",
    "Objective",
    "Outputs",
    "Probability",
    "Product",
    "Sum",
    "TargetLogit",
]
