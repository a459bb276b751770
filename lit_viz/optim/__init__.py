"""Step rules for ascent, with separate state for every slot."""

from lit_viz.optim.adapted import SGD, Adam, Adapted, NAdam, RMSprop
from lit_viz.optim.ascent import GradientAscent, NormalizedAscent
from lit_viz.optim.evaluation import Evaluate, Evaluation
from lit_viz.optim.rule import State, StepRule
from lit_viz.optim.schedules import Constant, Cosine, LearningRate

__all__ = [
    "SGD",
    "Adam",
    "Adapted",
    "Constant",
    "Cosine",
    "Evaluate",
    "Evaluation",
    "GradientAscent",
    "LearningRate",
    "NAdam",
    "NormalizedAscent",
    "RMSprop",
    "State",
    "StepRule",
]
