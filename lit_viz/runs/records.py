"""The lines of ``results.jsonl``: a kind of record per method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, TypedDict

from lit_viz.attacks.norms import FILE_UNIT, L2, format_distance
from lit_viz.attributions.reducers import SIGNED
from lit_viz.errors import LitVizError
from lit_viz.networks.outputs import Detected
from lit_viz.types import Item, Record
from lit_viz.utils.checking import wrong_value

#: Most probable classes as (name, probability).
Ranking = Sequence[tuple[str, float | None]]
#: Probability of its class that the network gives a class image, at least; of another one the optimization failed.
LEAST_PROBABILITY = 0.5


class Judgment(TypedDict):
    """Probability and rank of the target by a held-out network."""

    probability: float | None
    rank: int


class NamedBox(TypedDict):
    """A detection: the name of its class, its probability, and (x0, y0, x1, y1) in pixels of the input."""

    label: str
    score: float
    box: Sequence[float]


def named_boxes(detections: Sequence[Detected], labels: Sequence[str]) -> list[NamedBox]:
    """Return detections as records have them."""
    boxes: list[NamedBox] = []
    for detected in detections:
        corners = [round(value, 2) for value in detected.box]
        boxes.append({"label": labels[detected.index], "score": round(detected.score, 4), "box": corners})
    return boxes


class ContrastRecord(Record, abstract=True):
    """Result with a target that may be contrasted with another class.

    Attributes:
        against, gamma: index and weight of the class that the target is contrasted with.
    """

    against: int | None = None
    gamma: float | None = None

    @property
    def title(self) -> str:
        """The name of the target, with a weight of the contrast other than 1."""
        title = super().title
        return title if self.gamma in (None, 1) else f"{title} (gamma {self.gamma:g})"


class VisualizationRecord(ContrastRecord, abstract=True):
    """A class visualization, or the image of a layer or a channel.

    Attributes:
        top5: most probable classes.
        lr: learning rate, if it varies between the tasks.
        layer, channel: what is maximized in place of a class; None if the objective reads none.
        axis: meaning of ``channel`` in a layer of tokens.
        judges: probability and rank of the target by held-out network; None without a target.
        restarts: times that the image started again with other draws; None for 0.
        rank: rank of the target, from 1.
        objective: mean objective of the last views.
        objective_file: objective of the file without transforms, of an image without a target.
    """

    top5: Ranking = field(default_factory=list)
    lr: float | None = None
    layer: str | None = None
    channel: int | None = None
    axis: str | None = None
    judges: Mapping[str, Judgment] | None = None
    restarts: int | None = None

    #: Fields that are those of the task.
    fields_of_task: ClassVar[tuple[str, ...]] = (
        "label", "label_source", "target", "target_name", "lr", "layer", "channel", "axis",
    )  # fmt: skip

    rank = Item[float]("metrics")
    objective = Item[float]("metrics")
    objective_file = Item[float]("metrics")

    @property
    def judgments(self) -> Mapping[str, Judgment]:
        """Probability and rank of the target by held-out network; empty without one."""
        return self.judges or {}

    @property
    def correct_judges(self) -> int:
        """Number of held-out networks that predict the class."""
        return sum(judge["rank"] == 1 for judge in self.judgments.values())

    @property
    def is_recognized(self) -> bool:
        """Whether the network gives a finished image at least 0.5 of the probability of its class; True without a
        class, and where the target is a score or contrasted with another class."""
        if self.status != "done" or self.probability is None or self.against is not None:
            return True
        return self.probability >= LEAST_PROBABILITY


class ClassImageRecord(VisualizationRecord):
    """An image with a target class."""

    judges: Mapping[str, Judgment] | None = field(default_factory=dict)


class LayerImageRecord(VisualizationRecord):
    """An image without a target class: of a layer, a channel, or another objective."""


class PhotographRecord(Record, abstract=True):
    """What the records about a photograph contain.

    Attributes:
        label_name: name of the label.
        predicted, predicted_name: prediction of the photograph, if classes exclude each other; of an attack that of its
            file.
        correct: whether the prediction of the photograph is the given label; None without one.
        original_size, original_box: size of the original photograph, and the part that the network received.
        output_box: box in the network's input that its scores are about.
        output_outline: polygons (x, y) around a region that is no box.
        output_note: what is particular about the scores, such as a gradient that is not their derivative.
        text: what the network says or reads of the photograph; of an attack that of its file.
        text_agrees: whether that is the explained text, or begins with the text up to the explained part. Of an attack
            whether it confirms the success or failure of the file; a success that it does not is none.
    """

    label_name: str | None = None
    predicted: int | None = None
    predicted_name: str | None = None
    correct: bool | None = None
    original_size: tuple[int, int] | None = None
    original_box: tuple[float, float, float, float] | None = None
    output_box: Sequence[float] | None = None
    output_outline: Sequence[Sequence[Sequence[float]]] | None = None
    output_note: str | None = None
    text: str | None = None
    text_agrees: bool | None = None


class SaliencyRecord(ContrastRecord, PhotographRecord, kind="saliency_map"):
    """A saliency map.

    Attributes:
        method: name of the attribution.
        layer: the layer that the method reads, if it reads one.
        grid: rows and columns of the tokens of a transformer, or the setting of RISE.
        mask_sha256: checksum of the file with the regions of the image.
        interactions: two superpixels and the interaction of each pair, the strongest first.
        places: a pixel (x, y) in each superpixel.
        baselines_sha256: checksum of the pixels of the photographs that are baselines.
        reducer: how channels are reduced.
        top5: most probable classes of the photograph.
        maximum: largest absolute value of the map.
        signed: whether pictures show both signs, since negative values are strong; None if not.
        scale: factor of the values of the reduced map in float16, if it is stored so.
        bands: sum of the map of each band, by its name; of features that are bands, their value.
        box, iou: box of the object in the original, and its overlap with the true one.
        place: of the explained token or letter in its text, from 1.
    """

    method: str
    reducer: str
    top5: Ranking = field(default_factory=list)
    signed: bool | None = None
    scale: float | None = None
    bands: Mapping[str, float] | None = None
    box: tuple[float, float, float, float] | None = None
    iou: float | None = None
    place: int | None = None

    @property
    def prediction_text(self) -> str:
        """The prediction of the photograph: ``true clear, seen as cloud (.83)``, or ``cloud (.83)``; empty without
        one."""
        if self.predicted_name is None:
            return ""
        text = self.predicted_name
        if self.top5 and self.top5[0][1] is not None:
            text += f" ({self.top5[0][1]:.2f})".replace("(0.", "(.")
        return text if self.correct is not False else f"true {self.label_name}, seen as {text}"

    @property
    def drawn_reducer(self) -> str:
        """How channels are reduced in pictures."""
        return SIGNED if self.signed else self.reducer

    @property
    def has_map(self) -> bool:
        """Whether the attribution differs between pixels; whole bands have one value each."""
        return self.features != "bands"

    @property
    def relative_error(self) -> float | None:
        """Relative error or completeness gap; None for an exact method, NaN if it can't be estimated."""
        if "relative_error" not in self.metrics:
            return None
        error = self.metrics["relative_error"]
        if not isinstance(error, (int, float)):
            return math.nan
        return error

    maximum = Item[float]("metrics")
    layer = Item[str]("settings")
    features = Item[str]("settings")
    grid = Item[int | Sequence[int]]("settings")
    mask_sha256 = Item[str]("settings")
    interactions = Item[Sequence[tuple[int, int, float]]]("settings")
    places = Item[Sequence[tuple[int, int]]]("settings")
    baselines_sha256 = Item[str]("settings")


class AttackRecord(Record, abstract=True):
    """What the records of all attacks contain.

    Attributes:
        attack: name of the attack.
    """

    attack: str

    @property
    def class_change(self) -> str:
        """The predictions before and after the attack of an image; else empty."""
        return ""


class AdversarialRecord(AttackRecord, PhotographRecord, kind="adversarial_example"):
    """An adversarial example.

    Attributes:
        predicted_before, predicted_before_name: prediction of the photograph.
        probability_before: probability of the target or the label on the photograph.
        score_before: score of the photograph, if scores are numbers.
        success_float: the image before rounding fools the network; like the others None of a skipped photograph.
        success_file: the file fools the original network; None if the file is not as recorded.
        success_jpeg95, success_jpeg75: the file still does after JPEG compression.
        repaired: values changed to restore a success that rounding had destroyed.
        l0: fraction of changed values. ssim, psnr: similarity to the photograph.
        top5: most probable classes of the file.
        margin: margin of the file; positive if it fools the network.
        by: member of an ensemble that fooled the network.
        tried: members of an ensemble that were tried; None for another attack.
        fewest: fewest gradient updates of a member that was tried.
        text_before: what the network says or reads of the photograph.
        against: class that is left beside reaching the target, of the goal ``become``.
        boxes_before, boxes: final detections of the photograph and of the file.
    """

    predicted_before: int | None = None
    predicted_before_name: str | None = None
    probability_before: float | None = None
    score_before: float | None = None
    success_float: bool | None = None
    success_file: bool | None = None
    success_jpeg95: bool | None = None
    success_jpeg75: bool | None = None
    repaired: int | None = None
    l0: float | None = None
    ssim: float | None = None
    psnr: float | None = None
    top5: Ranking | None = None
    text_before: str | None = None
    against: int | None = None
    boxes_before: Sequence[NamedBox] | None = None
    boxes: Sequence[NamedBox] | None = None

    @property
    def verdict(self) -> str | None:
        """``fooled`` or ``robust``, by the file; None if it was not tested."""
        if self.status == "skipped" or self.success_file is None:
            return None
        return "fooled" if self.success_file else "robust"

    @property
    def class_change(self) -> str:
        """The predictions before and after: ``quail → stingray``, or ``still quail``; else empty."""
        before, after = self.predicted_before_name, self.predicted_name
        if self.status != "done" or before is None or after is None:
            return ""
        if before != after:
            return f"{before} → {after}"
        # A decision on another class than the most probable one may have changed.
        return "" if self.success_file else f"still {after}"

    margin = Item[float]("metrics")
    by = Item[str]("settings")
    tried = Item[Sequence[str]]("settings")
    fewest = Item[int]("settings")


class UniversalRecord(AttackRecord, kind="universal_perturbation"):
    """A universal perturbation.

    Attributes:
        magnified: factor by which the picture magnifies the perturbation.
        photographs: number of photographs.
        trained_on, held_out: counted photographs, by part.
        fooling_rate: share of the photographs trained on that are fooled in the file.
        fooling_rate_float: share of the photographs trained on that are fooled before rounding.
        held_out_fooling_rate, held_out_fooling_rate_float: the same of the held-out photographs.
    """

    magnified: float | None = None
    photographs: int
    trained_on: int = 0
    held_out: int = 0
    fooling_rate_float: float | None = None
    held_out_fooling_rate: float | None = None
    held_out_fooling_rate_float: float | None = None

    fooling_rate = Item[float]("metrics")


def read_record(values: Mapping[str, Any] | None) -> Record:
    """Return the record of a line of ``results.jsonl``, of its kind.

    Args:
        values: JSON object of the line; None if it is none.

    Raises:
        LitVizError: a key is unknown or missing, or a value has another type.
    """
    if not values:
        raise LitVizError("it is no JSON object")
    kind = Record.class_of(values)
    wrong = wrong_value({key: value for key, value in values.items() if key != "kind"}, kind)
    if wrong is not None:
        raise LitVizError(wrong)
    return Record.read(values)


def label_with_lr(name: str, record: Record) -> str:
    """Return a name with the learning rate of its record, if the task sets one: ``zebra, lr 0.05``."""
    return name if record.lr is None else f"{name}, lr {record.lr:g}"


def has_several_radii(records: Iterable[Record]) -> bool:
    """Return whether the records have more than one value of ``eps``."""
    return len({record.eps for record in records} - {None}) > 1


def label_with_eps(name: str, record: Record, several_radii: bool) -> str:
    """Return a name, in a run of several radii with the radius of its record: ``chelsea, eps 4/255``."""
    if not several_radii or record.eps is None or record.norm is None:
        return name
    return f"{name}, eps {radius_text(record)}"


def radius_text(record: Record) -> str:
    """Return the radius of a record as users write it, also in the unit of the files if they have one: ``4/255``,
    ``0.51/255 (20 file)``; a dash without a radius."""
    text = format_distance(record.eps, record.norm or L2.name)
    in_files = record.settings.get("eps_file")
    return text if in_files is None else f"{text} ({in_files:g} {FILE_UNIT})"
