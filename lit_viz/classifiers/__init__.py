"""Frozen classifiers: loading them by name, their labels and normalization, and the private fast copy."""

from lit_viz.classifiers.classifier import Classifier
from lit_viz.classifiers.fast.frozen import FrozenNetwork
from lit_viz.classifiers.layers import layer_names
from lit_viz.classifiers.loading import load_classifier

__all__ = ["Classifier", "FrozenNetwork", "layer_names", "load_classifier"]
