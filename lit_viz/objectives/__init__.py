"""What is maximized: a score of what the network says, one number for each input."""

from lit_viz.objectives.attacks import DLR, AttackObjective, ClippedCrossEntropy, CrossEntropy, Margin, TargetLogit
from lit_viz.objectives.base import Objective, Outputs, Product, Sum
from lit_viz.objectives.batch_norm import BatchNormStatistics
from lit_viz.objectives.classes import Logit, LogProbability, Probability
from lit_viz.objectives.direction import Direction
from lit_viz.objectives.diversity import Diversity
from lit_viz.objectives.layers import Channel, Layer, LayerObjective, Neuron

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
