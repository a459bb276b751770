"""The microscope: browsable pages of the units of a network."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from lit_viz.api import visualize
from lit_viz.classifiers import Classifier, as_classifier
from lit_viz.classifiers.layers import layouts
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.evidence.naturalness import Naturalness, channel_means, compared_layers, naturalness
from lit_viz.images.canvas import resize
from lit_viz.images.listing import photographs as list_photographs
from lit_viz.images.reading import read_photograph, to_uint8
from lit_viz.launch.run import Run
from lit_viz.methods import ClassVisualization
from lit_viz.methods.records import LayerImageRecord
from lit_viz.methods.tasks import parse_channels
from lit_viz.objectives import Outputs
from lit_viz.types import slug
from lit_viz.units.effects import class_effects, crop_box, receptive_field
from lit_viz.units.site import Crop, UnitPage, save_thumbnail, write_site
from lit_viz.units.survey import TOP, LayerSurvey, channel_of, survey
from lit_viz.utils.formatting import choose_notify, pluralize

_CLASSES = 5  # raised and lowered, on the page of a unit
_RANDOM = 64  # photographs with which natural images are compared
_LEAST = 3  # photographs for a comparison
_STEP = 30.0  # seconds between two messages of progress


@dataclass(frozen=True)
class Microscope:
    """A written microscope.

    Attributes:
        index: its first page.
        runs: run of each layer, with the synthetic images and their records.
        surveys: activations of the photographs by layer.
    """

    index: Path
    runs: dict[str, Run]
    surveys: dict[str, LayerSurvey]


def microscope(
    classifier: Classifier | nn.Module | str,
    layers: str | Sequence[str],
    photographs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    channels: str | Sequence[int] = "all",
    config: str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Microscope:
    """Make pages of every unit of some layers: its synthetic image, the photographs that activate it most, the
    distribution of its activation, and the classes that it raises and lowers.

    A call with the same arguments continues an interrupted one: finished units are kept.

    Args:
        classifier: the network, as in :func:`~lit_viz.visualize`.
        layers: names of layers, or patterns such as ``"blocks.*"``; those that end in channels or features.
        photographs: files or folders.
        out: folder with ``site/index.html``, and a run folder per layer in ``layers/``.
        channels: units of each layer: numbers, ``"3,14-20"`` or ``"all"``.
        config: configuration of the synthetic images, as of :func:`~lit_viz.visualize`.
        progress: show messages. Default: in notebooks and on the command line.
        options: other arguments of :func:`~lit_viz.visualize`, such as ``iterations=``.

    Raises:
        LitVizError: no layer matches, or no photograph can be read.
    """
    network = as_classifier(classifier)
    notify = choose_notify(progress) or _silent
    folder, names = Path(out), matching_layers(network, layers)
    files = _photograph_files(photographs)
    surveys, readable = survey(network, names, files, folder / "activations", _reporter(notify, len(files)))
    runs: dict[str, Run] = {}
    pages: list[UnitPage] = []
    for layer in names:
        units = parse_channels(channels, surveys[layer].activations.shape[1])
        run_folder = folder / "layers" / slug(layer)
        notify(f"{layer}: {pluralize(len(units), 'unit')}")
        runs[layer] = visualize(
            network, layer=layer, channels=units, axis=channel_of(network, layer).axis, config=config, out=run_folder,
            resume=run_folder.exists(), logger=None, progress=progress, **options,
        )  # fmt: skip
        pages += _pages(network, layer, runs[layer], surveys[layer], readable, folder / "site")
    counts = [(len(pages), "unit"), (len(names), "layer"), (len(readable), "photograph")]
    subtitle = ", ".join(pluralize(count, noun) for count, noun in counts)
    index = write_site(folder / "site", f"Microscope of {network.name}", subtitle, pages)
    return Microscope(index, runs, surveys)


def _silent(message: str) -> None:
    """Show nothing."""


def cost_text(
    classifier: Classifier,
    layers: str | Sequence[str],
    photographs: str | Path | Sequence[str | Path],
    channels: str | Sequence[int] = "all",
    iterations: int | None = None,
) -> str:
    """Return the number of units, evaluations and photographs of a microscope."""
    found = layouts(classifier)
    units = 0
    for layer in matching_layers(classifier, layers):
        units += len(parse_channels(channels, found[layer].channels))
    module = (
        ClassVisualization(classifier) if iterations is None else ClassVisualization(classifier, iterations=iterations)
    )
    evaluations = units * module.iterations * module.views
    files = len(_photograph_files(photographs))
    return (
        f"{pluralize(units, 'unit')}: {evaluations:,} evaluations, {pluralize(files, 'photograph')} once, and "
        f"{2 * TOP * units:,} forwards for the classes"
    )


def matching_layers(classifier: Classifier, patterns: str | Sequence[str]) -> list[str]:
    """Return the layers that match names or patterns and have channels, in the order of the forward.

    Raises:
        LitVizError: a pattern matches none.
    """
    wanted = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    found = layouts(classifier)
    usable = [name for name, layout in found.items() if name and layout.kind != "other"]
    chosen: list[str] = []
    for pattern in wanted:
        matches = [name for name in usable if fnmatch.fnmatchcase(name, pattern.strip())]
        if not matches:
            raise LitVizError(f"no layer of {classifier.name} matches {pattern!r}{did_you_mean(pattern, usable)}")
        chosen += matches
    return [name for name in usable if name in chosen]


def _photograph_files(photographs: str | Path | Sequence[str | Path]) -> list[str]:
    given = [photographs] if isinstance(photographs, (str, Path)) else list(photographs)
    listing = list_photographs([str(path) for path in given])
    return [entry.path for entry in listing.entries if entry.error is None]


def _reporter(notify: Callable[[str], None], total: int) -> Callable[[int], None]:
    """Return a function that reports the photographs that were evaluated, and the time left."""
    started = reported = time.monotonic()

    def report(done: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported < _STEP:
            return
        reported = now
        left = (now - started) / done * (total - done)
        notify(f"{done} of {pluralize(total, 'photograph')}, {left:.0f} s left")

    return report


def _pages(
    classifier: Classifier, layer: str, run: Run, found: LayerSurvey, photographs: Sequence[str], site: Path
) -> list[UnitPage]:
    """Return the pages of the units of a layer, and write their pictures."""
    field = receptive_field(classifier, layer)
    compared = compared_layers(classifier, layer)
    others = channel_means(classifier, compared, _random_photographs(classifier, photographs)) if compared else {}
    means = found.activations.mean(0)
    objective = channel_of(classifier, layer)
    pages = []
    for outcome in run.outcomes:
        record, image = outcome.record, outcome.image()
        unit = record.channel if isinstance(record, LayerImageRecord) else None
        if record.status != "done" or unit is None or image is None:
            continue
        name = f"{slug(layer)}_{unit}"
        picture = site / "images" / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_uint8(image)).save(picture)
        save_thumbnail(picture, site / "thumbnails" / f"{name}.jpg")
        crops, images = _crops(classifier, found, unit, photographs, field, site, name)
        effects = class_effects(classifier, layer, unit, images, float(means[unit]))
        order = effects.argsort(descending=True).tolist()
        classes = [(classifier.labels[k], float(effects[k])) for k in order]
        pages.append(
            UnitPage(
                layer=layer,
                unit=unit,
                image=f"images/{name}.png",
                thumbnail=f"thumbnails/{name}.jpg",
                synthetic=_activation(classifier, objective, image, unit),
                activations=found.activations[:, unit],
                crops=crops,
                raised=classes[:_CLASSES],
                lowered=classes[::-1][:_CLASSES],
                naturalness=_naturalness(classifier, compared, image, images, others),
            )
        )
    return pages


def _random_photographs(classifier: Classifier, photographs: Sequence[str]) -> torch.Tensor:
    """Return photographs ``(R, C, H, W)``, evenly spaced through the list."""
    places = torch.linspace(0, len(photographs) - 1, min(len(photographs), _RANDOM)).long().tolist()
    return torch.stack([_pixels(classifier, photographs[place]) for place in places])


def _pixels(classifier: Classifier, path: str) -> torch.Tensor:
    fit: Any = classifier.resizing or "crop"
    return read_photograph(path, classifier.size, classifier.channels, fit).pixels


def _naturalness(
    classifier: Classifier,
    layers: Sequence[str],
    image: torch.Tensor,
    natural: torch.Tensor,
    others: Mapping[str, torch.Tensor],
) -> list[Naturalness]:
    """Return how natural the way of a synthetic image through the layers is; empty with too few photographs."""
    if not layers or len(natural) < _LEAST or len(others[layers[0]]) < _LEAST:
        return []
    means = channel_means(classifier, layers, torch.cat([resize(image[None], classifier.size), natural]))
    synthetic = {layer: rows[0] for layer, rows in means.items()}
    return naturalness(synthetic, {layer: rows[1:] for layer, rows in means.items()}, others)


def _crops(
    classifier: Classifier,
    found: LayerSurvey,
    unit: int,
    photographs: Sequence[str],
    field: tuple[int, int],
    site: Path,
    name: str,
) -> tuple[list[Crop], torch.Tensor]:
    """Return the parts of the photographs that activate a unit most, as files, and the whole photographs."""
    crops = []
    images = []
    for rank, (index, place) in enumerate(zip(found.top[unit], found.places[unit], strict=True)):
        if index < 0:
            continue
        path = photographs[index]
        pixels = _pixels(classifier, path)
        images.append(pixels)
        x0, y0, x1, y1 = crop_box(place.tolist(), field, classifier.size)
        file = site / "crops" / f"{name}_{rank}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_uint8(pixels[:, y0:y1, x0:x1])).save(file, quality=88)
        activation = float(found.activations[index, unit])
        crops.append(Crop(f"crops/{file.name}", Path(path).stem, activation))
    return crops, torch.stack(images)


def _activation(classifier: Classifier, objective: Any, image: torch.Tensor, unit: int) -> float:
    """Return the activation of a unit by its synthetic image."""
    inputs = resize(image[None], classifier.size)
    with torch.no_grad():
        activations = classifier.fast([objective.layer]).activations(inputs, [objective.layer])
    outputs = Outputs(torch.zeros(1, 0), torch.zeros(1), activations)
    return float(objective.maps(outputs)[0, unit].mean())
