"""Cost of a microscope before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from lit_viz.launch.cost import format_cost, run_cost
from lit_viz.launch.methods import method_form
from lit_viz.launch.specs import METHODS
from lit_viz.methods import ClassVisualization
from lit_viz.methods.tasks import parse_channels
from lit_viz.networks import Network
from lit_viz.networks.layers import layouts
from lit_viz.units.build import matching_layers, photograph_files
from lit_viz.units.survey import TOP, channel_of
from lit_viz.utils.formatting import pluralize

_COPIES = 4  # of the synthetic image, as PNG: run folder, logged image, site, figures
_PAGE_BYTES = 120_000  # page, thumbnail and nine crops, as measured
_FLOAT_BYTES = 4


def cost_text(
    network: Network,
    layers: str | Sequence[str],
    images: Sequence[str],
    channel: str | Sequence[int] = "all",
    config: str | None = None,
    iterations: int | None = None,
) -> str:
    """Return evaluations, time and disk space of a microscope, from the time of a step in each layer."""
    by_layer = layouts(network)
    files = photograph_files(images)
    costs = []
    units = 0
    size = 0.0
    for layer in matching_layers(network, layers):
        axis = channel_of(network, layer).axis
        selection: dict[str, Any] = {"layer": layer, "channel": channel, "axis": axis, "config": config}
        if iterations is not None:
            selection["iterations"] = iterations
        module, tasks = method_form(METHODS["visualize"], selection, network).build(network)
        assert isinstance(module, ClassVisualization)
        costs.append(run_cost(module, tasks))
        count = len(parse_channels(channel, by_layer[layer].channels))
        units += count
        size += count * (_PAGE_BYTES + _COPIES * network.channels * prod(module.picture))
        size += _FLOAT_BYTES * len(files) * by_layer[layer].channels
    return (
        f"{format_cost(costs)}. In addition: {pluralize(len(files), 'photograph')} once, "
        f"{2 * TOP * units:,} forwards for the classes, and about {size / 1e6:,.0f} MB of disk"
    )
