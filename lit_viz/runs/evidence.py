"""The evidence of a run, the content of ``evidence.json``: each part is a class, and its fields are the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any

from typing_extensions import Self, TypeVar

from lit_viz.types import JsonObject
from lit_viz.utils.formatting import pluralize

#: Reasons in the records of maps without a comparison: Captum lacks the method, or the time limit was reached.
NOT_IN_CAPTUM, NOT_CHECKED = "not in Captum", "not checked"
#: What computes the references of maps.
CAPTUM, ORIGINAL = "Captum", "original network"
#: How a map is verified: by itself, or by a test of its sum and some of its terms.
WHOLE_MAP, MEAN_OF_IMAGES, SCALAR_TERMS = "whole map", "mean of images", "scalar terms"

# -- class images and adversarial files


class VerifiedFiles(JsonObject):
    """Files that were read and evaluated again, of this number of ``tasks``; ``wrong`` are the names of those that are
    not as recorded."""

    read: int
    tasks: int | None = None
    wrong: Sequence[str]


class FileEvidence(VerifiedFiles):
    """Adversarial files. Those of tasks that were ``skipped`` or failed are not read; ``fooled`` of them fool."""

    skipped: int | None = None
    fooled: int | None = None


class ImageEvidence(VerifiedFiles):
    """Class images, the number of images that are as recorded, and predictions."""

    same: int
    verdicts: Sequence[Mapping[str, Any]] = ()


class LayerNaturalness(JsonObject):
    """How natural an image is at a layer.

    Attributes:
        layer: name.
        value: similarity to its natural images; 1 as among these, 0 as of random photographs.
        low, high: 95 % bootstrap interval over images.
        is_decidable: whether the natural images are more similar to one another than to random photographs: the
            interval of that difference is above 0.
    """

    layer: str
    value: float
    low: float
    high: float
    is_decidable: bool


class ImageNaturalness(JsonObject):
    """How natural a class image is, by layer, and the number of photographs of its class; no layers if too few.

    ``deviation`` is how far the best figure of the second half of the layers lies from those of the other images, in
    robust standard deviations, or None where not decidable; ``flag`` is ``unnatural`` or empty.
    """

    index: int
    name: str
    target_name: str | None
    photographs: int
    layers: Sequence[LayerNaturalness]
    deviation: float | None = None
    flag: str | None = None


class NaturalnessEvidence(JsonObject):
    """Comparison of class images with photographs of their classes; ``photographs`` is the number of all."""

    photographs: int
    images: Sequence[ImageNaturalness]


class EnsembleMember(JsonObject):
    """Images that a member of an ensemble attacked, its successes in the file, and the images without a success after
    it."""

    member: str
    tried: int
    fooled: int
    left: int


class RobustnessPoint(JsonObject):
    """Robust photographs at a radius, and their share with its 95 % Wilson interval."""

    eps: str
    robust: int
    photographs: int
    share: float
    low: float
    high: float


class RobustnessEvidence(JsonObject):
    """Robustness by radius; ``what`` is the name of the share, ``files`` says that they are no pictures of 8 bits."""

    what: str
    norm: str
    points: Sequence[RobustnessPoint]
    files: str | None = None


class DiagnosisEvidence(JsonObject):
    """Signs of a failed attack, as clauses, and the names of the diagnostics; ``harder`` are those of the stronger
    attacks, if they were run."""

    reasons: Sequence[str]
    tried: Sequence[str]
    harder: DiagnosisEvidence | None = None

    @property
    def sentence(self) -> str:
        """The result in one line."""
        if self.reasons:
            verdict = f"Do not trust: {'; '.join(self.reasons)}"
        elif self.tried:
            verdict = "Trust: no sign of a failed attack"
        else:
            return "No diagnosis: no attacked image."
        checks = f" (checked: {', '.join(self.tried)})" if self.tried else ""
        return f"{verdict}{checks}."


class TransferCounts(JsonObject):
    """Photographs that a held-out network classifies right and wrong, and the files and mirrored changes of the right
    ones that fool it."""

    right: int
    fooled: int
    mirrored: int
    wrong: int


class TransferEvidence(JsonObject):
    """Transfer to held-out networks: counts by network, and predictions by file and network."""

    judges: Mapping[str, TransferCounts]
    files: Sequence[Mapping[str, Any]] = ()


# -- saliency maps


class RecordEvidence(VerifiedFiles):
    """Records of maps, which were compared with what was computed from the maps and their photographs again;
    ``missing`` is the number of missing photographs."""

    missing: int


class MapEvidence(JsonObject):
    """A saliency map in a part of the evidence."""

    index: int
    name: str
    method: str
    target_name: str | None

    @classmethod
    def of(cls, record: Any, **values: Any) -> Self:
        """Return the evidence for the map of a record."""
        return cls(**{name: getattr(record, name) for name in ("index", "name", "method", "target_name")}, **values)


class Similarity(JsonObject):
    """Similarity of a map ``(C, H, W)`` to a reference; NaN, or None in the file, for maps that are not finite.

    Attributes:
        difference: largest difference, relative to the reference's maximum.
        spearman: rank correlation of the values.
        ssim: structural similarity of the maximum absolute values over the channels.
        top_iou: intersection over union of the 10 % most salient pixels.
    """

    difference: float | None
    spearman: float | None
    ssim: float | None
    top_iou: float | None


class Gate(JsonObject):
    """A difference, relative to the maximum of Captum's map, and the largest one allowed; of a delivered map with the
    error of Captum's own float32 maps."""

    difference: float | None
    allowed: float | None = None
    captum_float32: float | None = None
    passed: bool


class MapAgreement(MapEvidence):
    """Comparison of a map with its reference.

    Attributes:
        passed: whether all gates are passed.
        family: how the map was verified: :data:`WHOLE_MAP`, :data:`MEAN_OF_IMAGES` or :data:`SCALAR_TERMS`.
        reference: :data:`CAPTUM` or :data:`ORIGINAL`.
        terms, recomputed: number of the terms, and of those that were recomputed, of a map that was verified by them.
        formula: gate of the formula, of a whole map.
        sum: gate of the sum, of a map that was verified by its terms.
        delivered: gate of the delivered map or its terms.
        similarity: of the whole map.
        controls: similarities of maps that must differ, or differences of their terms.
    """

    passed: bool
    family: str | None = None
    reference: str | None = None
    terms: int | None = None
    recomputed: int | None = None
    formula: Gate | None = None
    sum: Gate | None = None
    delivered: Gate
    similarity: Similarity | None = None
    controls: Mapping[str, Similarity]


class MaskEvidence(MapEvidence):
    """What an optimized mask, which has no reference, does to the original network in float64; this is no verdict.

    Attributes:
        area: mean of the mask, as a fraction of the image.
        score: score of the class when the rest of the image is blurred: its log probability by default.
        score_of_photograph: the same of the photograph.
    """

    area: float | None
    score: float | None
    score_of_photograph: float | None


class UncheckedMap(MapEvidence):
    """The reason why a map was not compared."""

    unchecked: str


class CaptumEvidence(JsonObject):
    """Comparison of the maps with Captum; ``precision`` is the half precision of the network, if any. The ``masks`` are
    among the unchecked maps."""

    version: str
    passed: bool | None
    precision: str | None = None
    maps: Sequence[MapAgreement]
    unchecked: Sequence[UncheckedMap]
    masks: Sequence[MaskEvidence] | None = None

    @cached_property
    def by_index(self) -> Mapping[int, MapAgreement]:
        """The compared maps by task index."""
        return {comparison.index: comparison for comparison in self.maps}


class SaliencyMetrics(MapEvidence):
    """Metrics of a map: areas by name and the curve of ``deletion`` and ``insertion``, and the reason for omissions."""

    deletion: Mapping[str, Any]
    insertion: Mapping[str, Any]
    max_sensitivity: float | None
    randomization: Sequence[Mapping[str, Any]]
    points_at_box: bool | None
    left_out: str | None
    remarks: Sequence[str]


class MetricsEvidence(JsonObject):
    """Saliency metrics of the maps, and their parameters."""

    settings: Mapping[str, Any]
    maps: Sequence[SaliencyMetrics]


class LocalizedObject(MapEvidence):
    """Box and mask of the object in a map, and their overlap with the reference boxes."""

    box: Sequence[float] | None
    box_in_image: Sequence[float] | None
    mask: str | None
    true_boxes: Sequence[Sequence[float]]
    iou: float | None
    iou_whole: float | None
    error: str | None


class LocalizationEvidence(JsonObject):
    """Localization by the maps; a box is correct from the IoU ``right_from_iou``."""

    seeds: Mapping[str, Any] = field(default_factory=dict)
    right_from_iou: float
    opencv: str
    corloc: Mapping[str, Mapping[str, Any]]
    maps: Sequence[LocalizedObject]


# -- all parts

#: What a network that draws random numbers means for results.
ONE_DRAW = "The network draws random numbers: each result and each success is of one draw."


class Evidence(JsonObject):
    """The evidence of a run. A method extends it by parts of its own; a part that was not computed is None.

    Attributes:
        unchecked: finished tasks that are not in the sample of a run of many, so that they were not evaluated.
        one_draw: whether the network draws random numbers in eval mode, so that each result is of one draw.
        failures: reason by name of each part that raised an exception.
    """

    unchecked: int | None = None
    one_draw: bool | None = None
    failures: Mapping[str, str] | None = None

    @property
    def unchecked_text(self) -> str:
        """The number of finished tasks that were not evaluated, in words."""
        return f"{pluralize(self.unchecked or 0, 'finished task')} outside of the sample not evaluated."

    @property
    def failure_texts(self) -> Mapping[str, str]:
        """A sentence by name of each part that raised an exception."""
        return {name: f"Evidence {name} not computed: {reason}." for name, reason in (self.failures or {}).items()}


#: Class of the evidence of a method.
E = TypeVar("E", bound=Evidence, default=Evidence)
E_co = TypeVar("E_co", bound=Evidence, covariant=True, default=Evidence)


class VisualizationEvidence(Evidence):
    """The evidence of class images."""

    pictures: ImageEvidence | None = None
    naturalness: NaturalnessEvidence | None = None


class SaliencyEvidence(Evidence):
    """The evidence of saliency maps; ``texts`` are verified texts of photographs."""

    captum: CaptumEvidence | None = None
    localization: LocalizationEvidence | None = None
    faithfulness: MetricsEvidence | None = None
    texts: VerifiedFiles | None = None
    records: RecordEvidence | None = None


class AdversarialEvidence(Evidence):
    """The evidence of adversarial examples; ``survivors`` are what the members of an ensemble have left."""

    files: FileEvidence | None = None
    survivors: Sequence[EnsembleMember] | None = None
    robustness: RobustnessEvidence | None = None
    trust: DiagnosisEvidence | None = None
    transfer: TransferEvidence | None = None


class UniversalEvidence(Evidence):
    """The evidence of universal perturbations; ``universal`` are fooling rates in words, by perturbation."""

    files: FileEvidence | None = None
    universal: Mapping[str, Sequence[str]] | None = None
