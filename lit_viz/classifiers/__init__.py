"""Frozen classifiers: load them by name, with labels and normalization, and their private fast copies."""

from lit_viz.classifiers.classifier import Classifier
from lit_viz.classifiers.fast import FrozenNetwork
from lit_viz.classifiers.layers import layer_names
from lit_viz.classifiers.loading import as_classifier, load_classifier

__all__ = ["Classifier", "FrozenNetwork", "as_classifier", "layer_names", "load_classifier"]
