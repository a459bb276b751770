"""The methods: LightningModules that train an image against a frozen network."""

from lit_viz.methods.adversarial_example import AdversarialExample
from lit_viz.methods.class_visualization import ClassVisualization
from lit_viz.methods.saliency_map import SaliencyMap
from lit_viz.methods.universal_perturbation import UniversalPerturbation

__all__ = ["AdversarialExample", "ClassVisualization", "SaliencyMap", "UniversalPerturbation"]
