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

#: Objectives of a class by name.
OBJECTIVES: dict[str, type[Objective]] = {
    "logit": Logit,
    "log_probability": LogProbability,
    "probability": Probability,
}

__all__ = [
    "DLR",
    "OBJECTIVES",
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
