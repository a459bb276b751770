"""Frozen networks: load them by name, with labels and normalization, and their private fast copies."""

from lit_viz.networks.fast import FrozenNetwork
from lit_viz.networks.layers import layer_names
from lit_viz.networks.loading import as_network
from lit_viz.networks.network import Network

__all__ = ["FrozenNetwork", "Network", "as_network", "layer_names"]
