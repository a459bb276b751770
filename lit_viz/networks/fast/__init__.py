"""The private fast copy of a network: folding, fusion, kernels.

Common arguments of its modules: ``network`` is a private copy in eval mode, changed in place; ``x`` are at least two
normalized images that it accepts; ``keep`` are names of layers that are neither changed nor merged with others.
"""

from lit_viz.networks.fast.backward import Backprop, is_rectifier
from lit_viz.networks.fast.compiling import CompileMode
from lit_viz.networks.fast.copying import SWITCHES, fast_copy
from lit_viz.networks.fast.frozen import FrozenNetwork

__all__ = [
    "SWITCHES",
    "Backprop",
    "CompileMode",
    "FrozenNetwork",
    "fast_copy",
    "is_rectifier",
]
