"""The microscope: browsable pages of the units of a network."""

from lit_viz.units.build import Microscope, matching_layers, microscope
from lit_viz.units.cost import cost_text

__all__ = ["Microscope", "cost_text", "matching_layers", "microscope"]
