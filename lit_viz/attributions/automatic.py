"""The method of a saliency map that follows from the kind of network."""

from __future__ import annotations

from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.networks.attention import attention_layers

#: Name of the method that follows from the network: see :func:`automatic_method`.
AUTO = "auto"


def automatic_method(network: Network) -> str:
    """Return the name of the method of one evaluation for a kind of network (docs/which_map.md).

    It is ``libra_gradient`` for a transformer to which its rule applies, otherwise ``gradient``.
    """
    try:
        if not attention_layers(network).layers:
            return "gradient"
        network.fast(backprop="libra")
    except LitVizError:  # the rule refuses the network, or the network returns no scores
        return "gradient"
    return "libra_gradient"
