"""Ready outputs of networks that are no classifiers, one per file, and :func:`load_network`."""

from __future__ import annotations

from lit_viz.networks.decisions import Decision, Goal
from lit_viz.networks.outputs import LOGITS, Logits, Output
from lit_viz.outputs.answer import Answer
from lit_viz.outputs.detection import Detection
from lit_viz.outputs.embedding import Embedding
from lit_viz.outputs.keypoint import Keypoint
from lit_viz.outputs.loading import OUTPUTS, as_output, load_network
from lit_viz.outputs.read_text import ReadText
from lit_viz.outputs.region import Region, Share
from lit_viz.outputs.regression import Regression
from lit_viz.outputs.zero_shot import ZeroShot

__all__ = [
    "LOGITS",
    "OUTPUTS",
    "Answer",
    "Decision",
    "Detection",
    "Embedding",
    "Goal",
    "Keypoint",
    "Logits",
    "Output",
    "ReadText",
    "Region",
    "Regression",
    "Share",
    "ZeroShot",
    "as_output",
    "load_network",
]
