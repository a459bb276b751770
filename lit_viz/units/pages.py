"""What the page of a unit shows, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_viz.evidence.naturalness import (
    UNNATURAL,
    NaturalImages,
    compared_layers,
    last_figure,
    null_deviations,
    other_images,
    read_input,
)
from lit_viz.images.canvas import resize
from lit_viz.images.reading import to_uint8
from lit_viz.launch.run import Run
from lit_viz.networks import Network
from lit_viz.objectives import Channel, Outputs
from lit_viz.runs.evidence import LayerNaturalness
from lit_viz.runs.records import LayerImageRecord
from lit_viz.runs.results import Outcome
from lit_viz.types import slug
from lit_viz.units.effects import ClassEffects, crop_box, receptive_field
from lit_viz.units.silence import Silence
from lit_viz.units.survey import LayerSurvey, channel_of
from lit_viz.utils.files import atomic_write

_CLASSES = 5  # raised and lowered
_THUMBNAIL = 96  # pixels
_BINS = 40
#: Synthetic activations above this multiple of the largest of a photograph are flagged; clean units reached 8.1.
MAX_RATIO = 10.0
#: A unit is flagged if its share at half contrast is so many robust standard deviations above the others.
HILL = 2.5
#: Largest standard deviation of a synthetic image that is called gray; the initial noise has 0.01.
_GRAY = 0.02
_LEAST_REACHED = 0.5  # of the mean activation by its photographs
_LEAST_HELD = 0.5  # share of the synthetic activation without silent channels


@dataclass(frozen=True)
class Crop:
    """A photograph that activates a unit.

    Attributes:
        file: its part in the receptive field, relative to the site.
        name: of the photograph.
        activation: mean of the unit over positions.
    """

    file: str
    name: str
    activation: float


@dataclass(frozen=True)
class Histogram:
    """Bars of the activations and the position of the synthetic image, in percent of height and width.

    Attributes:
        bars: heights, square roots of counts.
        low, high: smallest and largest activation.
        synthetic: position of the synthetic image.
    """

    bars: list[float]
    low: float
    high: float
    synthetic: float


@dataclass(frozen=True)
class UnitPage:
    """What the page of a unit shows.

    Attributes:
        layer, unit: name of the layer and index of the channel.
        image, thumbnail: files of the synthetic image, relative to the site.
        synthetic: activation of the synthetic image.
        held: the same while channels of earlier layers that no photograph activates keep their value.
        activations: ``(P,)`` of the photographs.
        crops: the photographs that activate it most, in descending order.
        raised, lowered: names of the classes whose logit it raises most and lowers most, with the change.
        naturalness: how the synthetic image passes through the layers up to this one, compared with its photographs.
        half: share of the activation that the synthetic image reaches at half its contrast, from a mid-gray image on;
            None if the activation does not grow.
        deviation, half_deviation: distances of the figure of its own layer, and of ``half``, from the median of the
            units, in robust standard deviations; None where not decidable.
        gray: why the synthetic image is gray, in a sentence; empty if it is not.
    """

    layer: str
    unit: int
    image: str
    thumbnail: str
    synthetic: float
    activations: NDArray[np.float32] = field(repr=False)
    crops: Sequence[Crop]
    raised: Sequence[tuple[str, float]]
    lowered: Sequence[tuple[str, float]]
    naturalness: Sequence[LayerNaturalness] = ()
    held: float | None = None
    half: float | None = None
    deviation: float | None = None
    half_deviation: float | None = None
    gray: str = ""

    @property
    def name(self) -> str:
        """Name of its files, without a suffix."""
        return f"{slug(self.layer)}_{self.unit}"

    @property
    def page(self) -> str:
        """File of the page in the folder ``units``."""
        return f"{self.name}.html"

    @property
    def ratio(self) -> float | None:
        """Activation of the synthetic image relative to the largest of a photograph, both from the level.

        It is None if no photograph exceeds the level.
        """
        largest = float(self.activations.max()) - self.level
        if largest > 0:
            return (self.synthetic - self.level) / largest
        return None

    @property
    def level(self) -> float:
        """Activation that is no response: zero, or of a unit with a negative mean over the photographs, that mean."""
        return min(0.0, float(self.activations.mean(dtype=np.float64)))

    @property
    def is_negative(self) -> bool:
        """Whether the activation by every photograph is negative."""
        return bool(self.activations.max() < 0)

    @property
    def flag(self) -> str:
        """Reason why the synthetic image may be misleading, in a word; empty without one.

        ``silent``: no photograph activates the unit above its :attr:`level`; or its synthetic image does so by more
        than :data:`MAX_RATIO` times the largest activation of a photograph; or more than half of this activation is due
        to channels that no photograph activates.
        ``unnatural``: the figure of its own layer is :data:`UNNATURAL` robust standard deviations below the median of
        the units, or ``half`` is :data:`HILL` above it: the activation has a narrow maximum at the image.
        """
        is_beyond = self.ratio is None or self.ratio > MAX_RATIO
        growth = self.synthetic - self.level
        is_detour = self.held is not None and growth > 0 and self.held - self.level < _LEAST_HELD * growth
        if is_beyond or is_detour:
            return "silent"
        is_unlike = self.deviation is not None and self.deviation < -UNNATURAL
        is_hill = self.half_deviation is not None and self.half_deviation > HILL
        if is_unlike or is_hill:
            return "unnatural"
        return ""

    @property
    def remark(self) -> str:
        """The flag; or ``gray`` for an image that shows nothing; else empty."""
        return self.flag or ("gray" if self.gray else "")

    @property
    def histogram(self) -> Histogram:
        """Distribution of the activations."""
        low = float(min(self.activations.min(), self.synthetic, 0.0))
        high = float(max(self.activations.max(), self.synthetic))
        extent = max(high - low, 1e-12)
        counts, _ = np.histogram(self.activations, bins=_BINS, range=(low, low + extent))
        heights = 100 * np.sqrt(counts / max(int(counts.max()), 1))
        return Histogram(heights.round(1).tolist(), low, high, round(100 * (self.synthetic - low) / extent, 1))


def unit_pages(
    network: Network,
    run: Run,
    survey: LayerSurvey,
    photographs: Sequence[str],
    site: Path,
    silence: Silence,
    progress: Callable[[int], None] = lambda done: None,
) -> list[UnitPage]:
    """Return the pages of the units of a layer, and write their pictures.

    Args:
        network: the network.
        run: with the synthetic images of the layer.
        survey: of the layer.
        photographs: files of the survey.
        site: folder of the pages.
        silence: channels that no photograph of the survey activates.
        progress: called with the number of pages after each.
    """
    layer = survey.layer
    for name in ("images", "thumbnails", "crops"):
        (site / name).mkdir(parents=True, exist_ok=True)
    field = receptive_field(network, layer)
    outcomes = _finished(run)
    others = other_images(len(photographs))
    needed = chain(others, *(survey.most_active(unit) for unit in outcomes))
    natural_images = NaturalImages(network, compared_layers(network, layer), photographs, needed)
    means = survey.activations.mean(0)
    objective = channel_of(network, layer)
    class_effects = ClassEffects(network, objective)
    pages = []
    for unit, outcome in outcomes.items():
        image = outcome.image()
        if image is None:
            continue
        name = f"{slug(layer)}_{unit}"
        picture = Image.fromarray(to_uint8(network.bands.draw(image)))
        save_picture(picture, site / "images" / f"{name}.png")
        save_thumbnail(picture, site / "thumbnails" / f"{name}.jpg")
        images, crops = _crops(network, survey, unit, photographs, field, site / "crops" / name)
        effects = class_effects.of(unit, images, float(means[unit]))
        raised, lowered = _largest_changes(network, effects)
        synthetic = _activation(network, objective, image, unit)
        pages.append(
            UnitPage(
                layer=layer,
                unit=unit,
                image=f"images/{name}.png",
                thumbnail=f"thumbnails/{name}.jpg",
                synthetic=synthetic,
                held=_held_activation(network, silence, objective, image, unit),
                half=_half_share(network, objective, image, unit, synthetic),
                activations=survey.activations[:, unit],
                crops=crops,
                raised=raised,
                lowered=lowered,
                naturalness=natural_images.compare(image, survey.most_active(unit), others),
                gray=_gray_reason(network, objective, image, unit),
            )
        )
        progress(len(pages))
    return with_deviations(pages)


def _largest_changes(network: Network, effects: Tensor) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Return the names of the classes that a unit raises most, and of those that it lowers most, with the change of
    their logits ``(K,)``."""
    raised: list[tuple[str, float]] = []
    lowered: list[tuple[str, float]] = []
    order = effects.argsort(descending=True).tolist()
    for index in order[:_CLASSES]:
        if effects[index] > 0:
            raised.append((network.labels[index], float(effects[index])))
    for index in order[::-1][:_CLASSES]:
        if effects[index] < 0:
            lowered.append((network.labels[index], float(effects[index])))
    return raised, lowered


def _finished(run: Run) -> dict[int, Outcome]:
    """Return the finished images of a run by unit."""
    outcomes: dict[int, Outcome] = {}
    for outcome in run.outcomes:
        record = outcome.record
        if record.status == "done" and isinstance(record, LayerImageRecord) and record.channel is not None:
            outcomes.setdefault(record.channel, outcome)
    return outcomes


def with_deviations(pages: Sequence[UnitPage]) -> list[UnitPage]:
    """Return the pages of the units of a layer with their robust standard deviations.

    Units that no photograph activates are omitted, and units of which the synthetic image reaches less than half of the
    activation by their photographs: their maximization failed.
    """
    figures: list[float | None] = []
    halves: list[float | None] = []
    for page in pages:
        natural = [crop.activation for crop in page.crops]
        if page.activations.max() <= 0 or page.synthetic < _LEAST_REACHED * float(np.mean(natural)):
            figures.append(None)
            halves.append(None)
            continue
        figures.append(last_figure(page.naturalness))
        halves.append(page.half)
    compared = []
    for page, deviation, half in zip(pages, null_deviations(figures), null_deviations(halves), strict=True):
        compared.append(replace(page, deviation=deviation, half_deviation=half))
    return compared


def save_thumbnail(image: Image.Image, file: Path) -> None:
    """Write a small copy of an image."""
    small = image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    save_picture(small, file, quality=85)


def save_picture(image: Image.Image, file: Path, **options: Any) -> None:
    """Write a picture by Pillow, completely or not at all."""
    with atomic_write(file, sync=False) as temporary:
        image.save(temporary, **options)


def _crops(
    network: Network,
    survey: LayerSurvey,
    unit: int,
    photographs: Sequence[str],
    field: tuple[int, int],
    prefix: Path,
) -> tuple[dict[int, Tensor], list[Crop]]:
    """Return the photographs that activate a unit most ``(C, H, W)`` by place, and their parts in the receptive
    field."""
    images = {}
    crops = []
    for rank, index in enumerate(survey.most_active(unit)):
        path = photographs[index]
        pixels = read_input(network, path)
        x0, y0, x1, y1 = crop_box(survey.places[unit, rank].tolist(), field, network.size)
        file = prefix.with_name(f"{prefix.name}_{rank}.jpg")
        part = network.bands.draw(pixels[:, y0:y1, x0:x1])
        save_picture(Image.fromarray(to_uint8(part)), file, quality=88)
        images[index] = pixels
        crops.append(Crop(f"crops/{file.name}", Path(path).stem, float(survey.activations[index, unit])))
    return images, crops


def _activation(network: Network, objective: Channel, image: Tensor, unit: int) -> float:
    """Return the activation of a unit by its synthetic image."""
    inputs = resize(image[None], network.size)
    with torch.no_grad():
        activations = network.fast([objective.layer]).activations(inputs, [objective.layer])
    return _mean(objective, activations[objective.layer], unit)


def _gray_reason(network: Network, objective: Channel, image: Tensor, unit: int) -> str:
    """Return why the synthetic image of a unit is gray, as a sentence; empty if it is not."""
    if float(image.flatten(1).std(1).max()) > _GRAY:
        return ""
    inputs = resize(image[None], network.size).requires_grad_()
    layer = objective.layer
    activations = network.fast([layer]).activations(inputs, [layer])
    maps = objective.maps(Outputs(torch.zeros(1, 0), torch.zeros(1), activations))
    (gradient,) = torch.autograd.grad(maps[0, unit].mean(), inputs)
    if gradient.ne(0).any():
        return "the optimized image has no contrast, although the unit has a gradient there"
    return (
        "the unit does not respond to the nearly uniform image that the optimization starts from, and its gradient is "
        "zero there, so that the image did not change"
    )


def _half_share(network: Network, objective: Channel, image: Tensor, unit: int, activation: float) -> float | None:
    """Return the share of an image's activation at half contrast, from mid-gray on; None if it does not grow."""
    gray = torch.full_like(image, 0.5)
    start = _activation(network, objective, gray, unit)
    growth = activation - start
    if growth <= 0:
        return None
    return (_activation(network, objective, (image + gray) / 2, unit) - start) / growth


def _held_activation(network: Network, silence: Silence, objective: Channel, image: Tensor, unit: int) -> float:
    """Return the activation of a unit by its synthetic image with constant channels at their value for photographs."""
    return _mean(objective, silence.held(resize(image[None], network.size), objective.layer), unit)


def _mean(objective: Channel, activation: Tensor, unit: int) -> float:
    """Return the mean over positions of a unit of the activation of one image."""
    outputs = Outputs(torch.zeros(1, 0), torch.zeros(1), {objective.layer: activation})
    return float(objective.maps(outputs)[0, unit].mean())
