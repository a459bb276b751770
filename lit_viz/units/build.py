"""Make a microscope: synthetic images, activations of photographs, and their pages."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lit_viz.api import visualize
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.listing import photographs as list_photographs
from lit_viz.images.sources import ImageLike, image_inputs, picture_size
from lit_viz.launch.run import Run
from lit_viz.methods.tasks import parse_channels
from lit_viz.networks import Network, as_network
from lit_viz.networks.layers import layouts
from lit_viz.types import slug
from lit_viz.units.comparison import LayerDifference, layer_difference
from lit_viz.units.folder import microscope_folder
from lit_viz.units.pages import UnitPage, unit_pages
from lit_viz.units.silence import Silence
from lit_viz.units.site import write_comparison, write_site
from lit_viz.units.survey import LayerSurvey, channel_of, survey
from lit_viz.utils.checking import checked_types
from lit_viz.utils.files import atomic_write
from lit_viz.utils.formatting import Notify, choose_notify, ignore, pluralize
from lit_viz.utils.process import is_rank_zero
from lit_viz.utils.sequences import split_commas

#: Files, folders, and images in memory.
Photographs = ImageLike | Sequence[ImageLike]
_STORED = "photographs"  # folder of the images that were passed in memory
_SITE = "site"  # folder of the pages
_COMPARED = "compared"  # folder of the other network
_STEP = 30.0  # seconds between two messages of progress


@dataclass(frozen=True, repr=False)
class Microscope:
    """A written microscope.

    Attributes:
        index: its first page.
        runs: run of each layer, with the synthetic images and their records.
        surveys: activations of the photographs by layer.
        pages: what the page of each unit shows, with its flag.
        compared: the microscope of the other network of a comparison.
        differences: how far the units of each layer differ in the other network.
    """

    index: Path
    runs: dict[str, Run]
    surveys: dict[str, LayerSurvey]
    pages: Sequence[UnitPage] = ()
    compared: Microscope | None = None
    differences: dict[str, LayerDifference] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the numbers of units and layers, and the first page."""
        units = f"{pluralize(len(self.pages), 'unit')} of {pluralize(len(self.runs), 'layer')}"
        return f"Microscope({units}: {self.index})"


@checked_types
def microscope(
    network: Network | nn.Module | str,
    layers: str | Sequence[str],
    images: Photographs,
    out: str | Path,
    *,
    channel: str | Sequence[int] = "all",
    compare: Network | nn.Module | str | None = None,
    config: str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Microscope:
    """Make pages of every unit of some layers: its synthetic image, the photographs that activate it most, the
    distribution of its activation, and the classes that it raises and lowers.

    A call with the same arguments continues an interrupted one: finished units are kept.

    Args:
        network: the network, as in :func:`~lit_viz.visualize`.
        layers: names of layers with channels or features, or patterns such as ``"blocks.*"``.
        images: photographs, as files or folders. Images in memory, as in :func:`~lit_viz.saliency`, are written to
            ``photographs`` in the folder.
        out: folder with ``site/index.html``, and a run folder per layer in ``layers/``.
        channel: units of each layer: numbers, ``"3,14-20"`` or ``"all"``.
        compare: another network with the same layers, such as an earlier checkpoint. ``site/compare.html`` then ranks
            the units by how far the two networks differ, and shows them side by side.
        config: configuration of the synthetic images, as of :func:`~lit_viz.visualize`. Default: ``channels``, and
            ``small`` for networks of small images of a fixed size.
        progress: show messages. Default: in notebooks and on the command line.
        options: other arguments of :func:`~lit_viz.visualize`, such as ``iterations=``. Of the synthetic images only
            the last iteration is logged, unless ``log_at=`` is given.

    Raises:
        LitVizError: no layer matches, the other network lacks one, no photograph can be read, or the folder is neither
            empty nor a microscope of this network.
    """
    network = as_network(network, picture_size(images))
    names = matching_layers(network, layers)
    folder = Path(out)
    files, pictures = _listed(network, images, folder / _STORED)
    options = {"progress": progress, "log_at": "last", "config": config} | options
    notify = choose_notify(progress) or ignore
    if compare is None:
        with microscope_folder({folder: network}):
            _write(pictures)
            units = _inspect(network, names, channel, files, folder, folder / _SITE, options, notify)
            index = write_site(folder / _SITE, network.name, units.subtitle, units.pages)
        return Microscope(index, units.runs, units.surveys, units.pages)
    other = as_network(compare)
    check_same_layers(network, other, names)
    with microscope_folder({folder: network, folder / _COMPARED: other}):
        _write(pictures)
        return _compared(network, other, names, channel, files, folder, options, notify)


def _compared(
    network: Network,
    other: Network,
    layers: Sequence[str],
    channel: str | Sequence[int],
    files: Sequence[str],
    folder: Path,
    options: dict[str, Any],
    notify: Notify,
) -> Microscope:
    """Make the microscopes of two networks in ``folder``, and compare their units."""
    site = folder / _SITE
    units = _inspect(network, layers, channel, files, folder, site, options, notify)
    notify(f"compared with {other.name}")
    other_units = _inspect(other, layers, channel, files, folder / _COMPARED, site / _COMPARED, options, notify)
    differences = {layer: layer_difference(units.surveys[layer], other_units.surveys[layer]) for layer in layers}
    index = write_site(site, network.name, units.subtitle, units.pages, other=other.name)
    other_index = write_site(
        site / _COMPARED, other.name, other_units.subtitle, other_units.pages, compared="../", other=network.name
    )
    write_comparison(site, (network.name, other.name), _COMPARED, units.pages, other_units.pages, differences)
    compared = Microscope(other_index, other_units.runs, other_units.surveys, other_units.pages)
    return Microscope(index, units.runs, units.surveys, units.pages, compared, differences)


@dataclass(frozen=True)
class _Units:
    """The units of a network.

    Attributes:
        pages: of the units.
        runs, surveys: by layer.
        photographs: number of readable ones.
    """

    pages: list[UnitPage]
    runs: dict[str, Run]
    surveys: dict[str, LayerSurvey]
    photographs: int

    @property
    def subtitle(self) -> str:
        """The numbers of units, layers and photographs."""
        counts = [(len(self.pages), "unit"), (len(self.runs), "layer"), (self.photographs, "photograph")]
        return ", ".join(pluralize(count, noun) for count, noun in counts)


def _inspect(
    network: Network,
    layers: Sequence[str],
    channel: str | Sequence[int],
    files: Sequence[str],
    folder: Path,
    site: Path,
    options: dict[str, Any],
    notify: Notify,
) -> _Units:
    """Survey the photographs, make the synthetic images in ``folder``, and write the pictures of the pages to
    ``site``."""
    silence = Silence(network, layers)
    report = _reporter(notify, len(files), "photograph")
    surveys, readable = survey(network, layers, files, folder / "activations", report, silence)
    runs: dict[str, Run] = {}
    pages: list[UnitPage] = []
    for layer in layers:
        units = parse_channels(channel, surveys[layer].activations.shape[1])
        run_folder = folder / "layers" / slug(layer)
        notify(f"{layer}: {pluralize(len(units), 'unit')}")
        runs[layer] = visualize(
            network, layer=layer, channel=units, axis=channel_of(network, layer).axis, out=run_folder,
            resume=run_folder.exists(), logger="none", **options,
        )  # fmt: skip
        report = _reporter(notify, len(units), "page")
        pages += unit_pages(network, runs[layer], surveys[layer], readable, site, silence, report)
    return _Units(pages, runs, surveys, len(readable))


def matching_layers(network: Network, patterns: str | Sequence[str]) -> list[str]:
    """Return the layers that match names or patterns and have channels, in the order of the forward.

    Raises:
        LitVizError: a pattern matches none.
    """
    usable = [name for name, layout in layouts(network).items() if name and layout.kind != "other"]
    chosen: list[str] = []
    for pattern in split_commas(patterns):
        matches = fnmatch.filter(usable, pattern.strip())
        if not matches:
            raise LitVizError(f"no layer of {network.name} matches {pattern!r}{did_you_mean(pattern, usable)}")
        chosen += matches
    return [name for name in usable if name in chosen]


def check_same_layers(a: Network, b: Network, layers: Sequence[str]) -> None:
    """Raise :class:`LitVizError` unless both networks have the layers, with as many units."""
    own, other = layouts(a), layouts(b)
    for layer in layers:
        if layer not in other:
            hint = did_you_mean(layer, other)
            raise LitVizError(f"compare requires a network with the same layers: {b.name} has no {layer}{hint}")
        counts = own[layer].channels, other[layer].channels
        if counts[0] != counts[1]:
            raise LitVizError(
                f"compare requires layers with as many units: {layer} has {counts[0]} in {a.name} and {counts[1]} in "
                f"{b.name}"
            )


def photograph_files(images: Sequence[str]) -> list[str]:
    """Return the files of photographs that are given as files or folders."""
    listing = list_photographs(images)
    return [entry.path for entry in listing.entries if entry.error is None]


def _listed(network: Network, images: Photographs, folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    """Return the files of photographs, and the pictures that are written to some of them, by file.

    Args:
        network: the network.
        images: files, folders, and images in memory, which get a file in ``folder``.
        folder: of these files.
    """
    pictures, names = image_inputs(images, bands=network.bands)
    written = {f"{ARRAY_PREFIX}{index}": str(folder / f"{index:06d}.npy") for index in range(len(pictures))}
    files: list[str] = []
    for name in names:
        if name in written:
            files.append(written[name])
        else:
            files += photograph_files([name])
    return files, dict(zip(written.values(), pictures, strict=True))


def _write(pictures: Mapping[str, Tensor]) -> None:
    """Write pictures to their files, without rounding."""
    if not is_rank_zero():
        return
    for file, picture in pictures.items():
        with atomic_write(file, sync=False) as temporary, temporary.open("wb") as opened:
            np.save(opened, picture.numpy(), allow_pickle=False)


def _reporter(notify: Notify, total: int, noun: str) -> Callable[[int], None]:
    """Return a function that reports how many photographs or pages are done, and the remaining time."""
    started = reported = time.monotonic()

    def report(done: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported < _STEP:
            return
        reported = now
        remaining = (now - started) / done * (total - done)
        notify(f"{done} of {pluralize(total, noun)}, {remaining:.0f} s left")

    return report
