"""Objectives: differentiable scores of the outputs of a network, one per input, which are maximized."""

from lit_viz.objectives.attacks import DLR, AttackObjective, ClippedCrossEntropy, CrossEntropy, Margin, TargetLogit
from lit_viz.objectives.base import Objective, Outputs, Product, Sum
from lit_viz.objectives.classes import Logit, LogProbability, Probability
from lit_viz.objectives.coupled import BatchNormStatistics, Diversity
from lit_viz.objectives.direction import Direction
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
