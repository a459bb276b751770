"""Step rules for ascent, with separate state for every slot."""

from lit_viz.optim.ascent import SGD, Adam, Adapted, GradientAscent, NAdam, NormalizedAscent, RMSprop
from lit_viz.optim.evaluation import Evaluate, Evaluation
from lit_viz.optim.rule import Constant, Cosine, LearningRate, State, StepRule

#: Step rules for class images by name.
RULES: dict[str, type[StepRule]] = {"adam": Adam, "nadam": NAdam, "sgd": SGD, "rmsprop": RMSprop}

__all__ = [
    "RULES",
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
