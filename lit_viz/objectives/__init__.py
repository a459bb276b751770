"""What is maximized: a score of what the network says, one number for each input."""

from lit_viz.objectives.attacks import DLR, AttackObjective, CrossEntropy, Margin, TargetLogit
from lit_viz.objectives.base import Objective, Outputs, Product, Sum
from lit_viz.objectives.classes import Logit, LogProbability, Probability

__all__ = [
    "DLR",
    "AttackObjective",
    "CrossEntropy",
    "LogProbability",
    "Logit",
    "Margin",
    "Objective",
    "Outputs",
    "Probability",
    "Product",
    "Sum",
    "TargetLogit",
]
